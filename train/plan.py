"""What a run will do, known from config, manifests and config.json alone, before any rank or memory is taken."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from schemas.errors import ConfigError
from train.architecture import Architecture, check_fit
from train.checkpoint import FOLDER, RunState, check_same_run, list_checkpoints, read_run_state
from train.config import DatasetConfig, ModelFolder, TrainConfig
from train.feed import Feeder
from train.groups import Groups, group_losses
from train.metrics import METRICS
from train.mixture import Mixture
from train.model_folder import read_architecture
from train.packs import ShardedPacks, count_trained_tokens
from train.parallel import World, dtypes_of
from train.validate import Validation
from train.vocabulary import check_same_vocabulary

MODEL = "model"

Mode = Literal["start", "resume", "export", "doctor"]


@dataclass(frozen=True, slots=True)
class Plan:
    config: TrainConfig
    architecture: Architecture
    datasets: Sequence[ShardedPacks]
    validation: Sequence[ShardedPacks]
    mixture: Mixture
    sizes: Sequence[int]  # packs of each step; only the last may be short
    checkpoint: Path | None  # to go on from
    state: RunState  # that of the checkpoint, or of the start

    @property
    def steps(self) -> int:
        return len(self.sizes)


def plan_run(config: TrainConfig, mode: Mode) -> Plan:
    """Raises ConfigError or DatasetError for what cannot be trained."""
    datasets = open_datasets(config, config.datasets)
    validation = open_datasets(config, config.validation.datasets) if config.validation else []
    architecture = _find_architecture(config, [*datasets, *validation])
    weights = [dataset.weight for dataset in config.datasets if dataset.weight is not None] or None
    mixture = Mixture(datasets, weights, config.seed, config.shuffle_shards)
    if validation:
        Mixture([datasets[0], *validation], None, config.seed, None)  # of the same seq_len and tokenizer
    start = RunState(
        step=0,
        skipped=0,
        taken=(0,) * len(datasets),
        data=mixture.fingerprint,
        packs_per_step=config.packs_per_step,
        architecture=architecture,
        master_dtype=str(dtypes_of(config)[1]).removeprefix("torch."),
    )
    checkpoint = _find_checkpoint(config, start, mode)
    state = read_run_state(checkpoint) if checkpoint else start
    return Plan(config, architecture, datasets, validation, mixture, _step_sizes(config, datasets), checkpoint, state)


def open_datasets(config: TrainConfig, entries: Sequence[DatasetConfig]) -> list[ShardedPacks]:
    """Each has tokens that its policy trains."""
    datasets = [ShardedPacks(entry.path, holdout=entry.holdout) for entry in entries]
    for entry, dataset in zip(entries, datasets, strict=True):
        count_trained_tokens(dataset.manifest, config.policy_of(entry), entry.holdout)
    return datasets


def make_feeder(plan: Plan, world: World, entries: Sequence[DatasetConfig], datasets: Sequence[ShardedPacks]) -> Feeder:
    config = plan.config
    return Feeder(
        datasets=datasets,
        tables=[config.policy_of(entry).table() for entry in entries],
        first_groups=make_groups(plan, entries, datasets).firsts,
        by_source=config.loss_by_source,
        rank=world.rank,
        ranks=world.ranks,
        packs_per_microbatch=config.packs_per_microbatch,
        per_document=config.loss_normalization == "documents",
        pinned=world.device.type == "cuda",
    )


def make_groups(plan: Plan, entries: Sequence[DatasetConfig], datasets: Sequence[ShardedPacks]) -> Groups:
    return group_losses(entries, datasets, plan.config.loss_by_source)


def make_validation(plan: Plan, world: World) -> Validation | None:
    wanted = plan.config.validation
    if wanted is None:
        return None
    return Validation(
        make_feeder(plan, world, wanted.datasets, plan.validation),
        make_groups(plan, wanted.datasets, plan.validation),
        wanted.packs,
        plan.config.seed,
    )


def _find_architecture(config: TrainConfig, datasets: Sequence[ShardedPacks]) -> Architecture:
    architecture = read_architecture(config.model.path) if isinstance(config.model, ModelFolder) else config.model
    for dataset in sorted(datasets, key=lambda dataset: -dataset.manifest.vocab_size):
        architecture = check_fit(architecture, dataset.manifest, dataset.path)
    if isinstance(config.model, ModelFolder) and config.model.weights == "pretrained":
        check_same_vocabulary(config.model.path, datasets[0].path)
    return architecture


def _step_sizes(config: TrainConfig, datasets: Sequence[ShardedPacks]) -> Sequence[int]:
    """As many whole steps as asked for; or what the epochs come to, of which the last step may be short."""
    if config.steps:
        return [config.packs_per_step] * config.steps
    assert config.epochs
    packs = config.epochs * sum(map(len, datasets))
    whole, rest = divmod(packs, config.packs_per_step)
    return [config.packs_per_step] * whole + [rest] * bool(rest)


def _find_checkpoint(config: TrainConfig, start: RunState, mode: Mode) -> Path | None:
    if mode == "doctor":
        return None
    found = list_checkpoints(config.output) if mode != "start" else []
    if found:
        check_same_run(found[-1], read_run_state(found[-1]), start)
        return found[-1]
    if mode == "export":
        raise ConfigError(f"{config.output / FOLDER} holds no complete checkpoint; train first")
    _check_output_is_new(config.output, (METRICS, FOLDER, MODEL) if mode == "start" else (MODEL,))
    return None


def _check_output_is_new(output: Path, names: Sequence[str]) -> None:
    for name in names:
        if (output / name).exists():
            raise ConfigError(
                f"output {output} already holds {name} of another run; "
                "use --resume to go on from its newest checkpoint, or --set output=FOLDER for another folder"
            )
