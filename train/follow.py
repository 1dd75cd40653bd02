"""The generations that data sets are at: what one rank finds, all read.

The newest is looked up when a run starts, and for a data set that follows its generations again before the first step
that takes packs of its next epoch. So the stream of packs is known up to the end of an epoch, and no further.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from schemas.errors import ConfigError, DatasetError
from schemas.manifest import manifest_name
from schemas.recipe import canonical_sha256
from train.feed import of_another_rank
from train.packs import ShardedPacks
from train.parallel import World
from train.plan import Mode, Plan, mix_datasets, plan_run
from train.stream import Segment

Read = TypeVar("Read")


def agree(plan: Plan, mode: Mode, world: World) -> Plan:
    """The plan that all ranks have. Where a generation appeared while they looked for the newest, all take the older.

    Raises ConfigError where ranks would go on from different checkpoints, or some from none, and where they would read
    other packs.
    """
    own = [plan.state.step if plan.checkpoint else -1, *plan.generations]
    told = world.sum([value * (rank == world.rank) for rank in range(world.ranks) for value in own])
    ranks = [tuple(map(int, told[start : start + len(own)])) for start in range(0, len(told), len(own))]
    steps = {step for step, *_ in ranks}
    if len(steps) > 1:
        raise ConfigError(
            f"ranks would go on after different steps ({min(steps)} to {max(steps)}, -1 is none): they see "
            f"different folders at {plan.config.output}; output must be a file system that all nodes share"
        )
    _, *newest = map(min, zip(*ranks, strict=True))
    plan = plan if len(set(ranks)) == 1 else plan_run(plan.config, mode, newest)
    check_same_data(plan, world)
    return plan


def check_same_data(plan: Plan, world: World) -> None:
    """A rank finds its packs of a step by itself: with other data sets than the others it would train on other packs
    than are counted. Raises ConfigError, on all ranks, where one has other data sets or deals with them otherwise."""
    config, ids = plan.config, [dataset.manifest.id for dataset in plan.validation]
    deal = [config.packs_per_step, config.packs_per_microbatch, config.balance]
    known = int(canonical_sha256([plan.mixture.fingerprint, ids, deal])[:13], 16)  # whole in a float64
    told = world.sum([float(known * (rank == world.rank)) for rank in range(world.ranks)])
    if len(set(told)) > 1:
        paths = ", ".join(entry.path for entry in config.datasets)
        raise ConfigError(
            f"ranks would read different packs: on the nodes the data sets ({paths}) or the configs are not the same; "
            "copy them to all nodes anew, or use a file system or store that all nodes share"
        )


def known_epochs(plan: Plan) -> tuple[int, ...]:
    """Of each data set the last epoch of which the generation is known: that of the last pack that it gave."""
    return tuple(plan.mixture.epoch_of(dataset, max(0, taken - 1)) for dataset, taken in enumerate(plan.state.taken))


def find_limits(plan: Plan, epochs: Sequence[int]) -> list[float]:
    """What each data set can give before more is known than the generations of these epochs."""
    return [
        plan.mixture.end_of(dataset, epoch) if entry.generation == "follow" else math.inf
        for dataset, (entry, epoch) in enumerate(zip(plan.config.datasets, epochs, strict=True))
    ]


def look_up(
    plan: Plan, epochs: tuple[int, ...], taken: tuple[int, ...], size: int, world: World
) -> tuple[Plan, tuple[int, ...]]:
    """The plan and the epochs known after the next one of each data set that a step of `size` packs needs it of.

    Every rank must call it. Raises DatasetError, on all ranks, where one cannot read what is needed.
    """
    _, after = plan.mixture.take(taken, size)
    limits = find_limits(plan, epochs)
    needed = [dataset for dataset, limit in enumerate(limits) if after[dataset] > limit]
    looking = needed if world.rank == 0 else []
    own = _try_all(lambda: [find_newest(plan.datasets[dataset]) for dataset in looking], world)
    found = world.sum(own or [0] * len(needed))
    epochs = tuple(epoch + (dataset in needed) for dataset, epoch in enumerate(epochs))
    segments = list(plan.mixture.segments)
    newer = {
        dataset: generation
        for dataset, generation in zip(needed, map(int, found), strict=True)
        if generation > segments[dataset][-1].generation
    }
    opened = _try_all(lambda: {dataset: plan.datasets[dataset].at(newer[dataset]) for dataset in newer}, world)
    datasets = [opened.get(dataset, before) for dataset, before in enumerate(plan.datasets)]
    for dataset, generation in newer.items():
        segments[dataset] += (Segment(generation, epochs[dataset]),)
    if not newer:
        return plan, epochs
    return replace(plan, datasets=datasets, mixture=mix_datasets(plan.config, datasets, segments)), epochs


def _try_all(read: Callable[[], Read], world: World) -> Read:
    """What this rank reads. Raises DatasetError on all ranks where one could not."""
    result, failure = None, None
    try:
        result = read()
    except DatasetError as error:
        failure = error
    if any(world.sum([float(failure is not None)])):
        raise failure or of_another_rank()
    assert result is not None
    return result


def find_newest(dataset: ShardedPacks) -> int:
    generation = dataset.manifest.generation
    while dataset.folder.size(manifest_name(generation + 1)) is not None:
        generation += 1
    return generation
