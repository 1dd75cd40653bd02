"""Run by each rank in test_step.py: its part of a step through the trainer's own code, for several cases.

usage: gradient_worker.py CASES.json OUTPUT_FOLDER [RUNS.json]

Rank 0 writes each case's loss and full gradients into the folder. RUNS are for placement_worker.
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from placement_worker import run_all
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from train.config import TrainConfig
from train.mixture import PackRef
from train.model import Decoder
from train.optim import clip_gradients
from train.parallel import World, end_process, join_world
from train.plan import make_feeder, plan_run
from train.run import find_kernel, make_model
from train.step import accumulate_gradients, count_step, look_at_step


class Collectives(TorchDispatchMode):
    """Counts what goes over the wire, by operation and dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        if function.namespace == "c10d":
            sent = next(value for value in torch.utils._pytree.tree_leaves(arguments) if isinstance(value, Tensor))
            self.counts[f"{function._schema.name} {sent.dtype}"] += 1
        return function(*arguments, **(keywords or {}))


def run_case(case: dict[str, Any], world: World) -> dict[str, Any]:
    config = TrainConfig.model_validate(case["config"])
    plan = plan_run(config, "doctor")
    model = make_model(config, plan.architecture, world)
    feeder = make_feeder(plan, world, config.datasets, plan.datasets)
    microbatches = next(feeder.load(lambda: [[PackRef(0, pack) for pack in case["packs"]]])).microbatches
    count = count_step(microbatches, False, world)
    kernel = find_kernel(plan, world)
    with Collectives() as collectives:
        own = accumulate_gradients(model, microbatches, count, 1, kernel, world)
    here = sum(len(batch.places) for batch in microbatches)
    by_rank = [int(total) for total in world.sum([here * (rank == world.rank) for rank in range(world.ranks)])]
    grads = gather_gradients(model)
    loss, norm = look_at_step(own, clip_gradients(model, config.clip_norm), world)
    facts = {"loss": loss.mean, "count": count.trained_tokens, "by_rank": by_rank, "microbatches": len(microbatches)}
    clipped = gather_gradients(model)
    agreed = agree(clipped, world)
    return {**facts, "grads": grads, "norm": norm, "clipped": clipped, "agreed": agreed, "wire": collectives.counts}


def gather_gradients(model: Decoder) -> dict[str, Tensor]:
    """Each whole, as this rank's replica has it."""
    return {name: gather_gradient(parameter).clone() for name, parameter in model.named_parameters()}


def gather_gradient(parameter: Tensor) -> Tensor:
    assert isinstance(parameter.grad, DTensor)
    return parameter.grad.full_tensor()


def agree(tensors: dict[str, Tensor], world: World) -> bool:
    """Whether all ranks have the bits of rank 0."""
    own = torch.cat([tensor.flatten() for tensor in tensors.values()])
    first = own.clone()
    dist.broadcast(first, src=0)
    return world.sum([float(torch.equal(own, first))]) == [world.ranks]


def main() -> None:
    cases, output, *runs = map(Path, sys.argv[1:])
    with join_world() as world:
        for name, case in json.loads(cases.read_text()).items():
            result = run_case(case, world)
            if world.rank == 0:
                torch.save(result, output / f"{name}.pt")
        for path in runs:
            run_all(json.loads(path.read_text()), world)
    end_process(0)


if __name__ == "__main__":
    main()
