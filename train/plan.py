"""What a run will do, known from config, manifests and config.json alone, before any rank or memory is taken."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from schemas.errors import ConfigError
from schemas.generations import Generation
from schemas.manifest import MANIFEST
from schemas.recipe import canonical_sha256
from train.architecture import Architecture, check_fit
from train.checkpoint import FOLDER, RunState, check_same_run, list_checkpoints, read_run_state
from train.config import DatasetConfig, ModelFolder, TrainConfig
from train.feed import Feeder
from train.groups import group_losses
from train.metrics import METRICS
from train.mixture import Mixture, start_segments
from train.model_folder import read_architecture
from train.packs import ShardedPacks
from train.parallel import World, dtypes_of
from train.serving import serving_files
from train.stream import Segment
from train.tensorboard import check_tensorboard
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
    sizes: Sequence[int]  # packs of each step that is to do; only the last may be short
    checkpoint: Path | None  # to go on from
    state: RunState  # that of the checkpoint, or of the start
    serving: Mapping[str, bytes]  # the files beside the weights of the exported model

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.state.step + len(self.sizes)

    @property
    def generations(self) -> tuple[int, ...]:
        """Those that the data sets are at, then those of the validation data sets."""
        return tuple(dataset.manifest.generation for dataset in (*self.datasets, *self.validation))


def plan_run(config: TrainConfig, mode: Mode, newest: Sequence[int] | None = None) -> Plan:
    """Raises ConfigError or DatasetError for what cannot be trained.

    `newest`: the generation to take for the newest, of each data set and each validation data set.
    """
    checkpoint = _find_checkpoint(config, mode)
    found = read_run_state(checkpoint) if checkpoint else None
    datasets, validation = open_datasets(config, found, newest)
    architecture = _find_architecture(config, [*datasets, *validation])
    segments = _choose_segments(config, datasets, found)
    mixture = mix_datasets(config, datasets, segments)
    if validation:
        Mixture([datasets[0], *validation], None, config.seed, None)  # of the same seq_len and tokenizer
    start = RunState(
        step=0,
        skipped=0,
        taken=(0,) * len(datasets),
        generations=segments,
        validation=_record_generations(config, validation),
        data=mixture.fingerprint,
        packs_per_step=config.packs_per_step,
        loss=_fingerprint_loss(config),
        config=config.model_dump(mode="json"),
        architecture=architecture,
        master_dtype=str(dtypes_of(config)[1]).removeprefix("torch."),
    )
    if checkpoint and found:
        check_same_run(checkpoint, found, start)
    if config.tensorboard and mode in ("start", "resume"):
        check_tensorboard()
    if mode != "doctor":
        _make_folder(config.output)
    state = found.model_copy(update={"validation": start.validation}) if found else start
    source = config.model.path if isinstance(config.model, ModelFolder) else None
    return Plan(
        config=config,
        architecture=architecture,
        datasets=datasets,
        validation=validation,
        mixture=mixture,
        sizes=[] if mode in ("export", "doctor") else _step_sizes(config, mixture, state),
        checkpoint=checkpoint,
        state=state,
        serving=serving_files(architecture, datasets, source, config.export_dtype or config.dtype),
    )


def mix_datasets(
    config: TrainConfig, datasets: Sequence[ShardedPacks], segments: Sequence[Sequence[Segment]]
) -> Mixture:
    weights = [dataset.weight for dataset in config.datasets if dataset.weight is not None] or None
    return Mixture(datasets, weights, config.seed, config.shuffle_shards, segments)


def open_datasets(
    config: TrainConfig, found: RunState | None, newest: Sequence[int] | None
) -> tuple[list[ShardedPacks], list[ShardedPacks]]:
    """Those to train on and those of the validation. Each has tokens that its policy trains.

    Where the config names no number, the generations are those of the checkpoint, or else the newest.
    """
    entries = [*config.datasets, *(config.validation.datasets if config.validation else ())]
    recorded: list[int | None] = [own[-1].generation for own in found.generations] if found else []
    recorded = recorded if len(recorded) == len(config.datasets) else [None] * len(config.datasets)
    recorded += [found.validation.get(entry.path) if found else None for entry in entries[len(config.datasets) :]]
    datasets = []
    for index, entry in enumerate(entries):
        known = recorded[index] if recorded[index] is not None or newest is None else newest[index]
        generation: Generation = entry.generation if isinstance(entry.generation, int) else "latest"
        if not isinstance(entry.generation, int) and known is not None:
            generation = known
        dataset = ShardedPacks(
            entry.path, entry.holdout, entry.profile, generation, config.cache.folder, config.cache.max_bytes
        )
        dataset.count_trained_tokens(config.policy_of(entry))
        datasets.append(dataset)
    return datasets[: len(config.datasets)], datasets[len(config.datasets) :]


def _choose_segments(
    config: TrainConfig, datasets: Sequence[ShardedPacks], found: RunState | None
) -> tuple[tuple[Segment, ...], ...]:
    """Those of the checkpoint, but for data sets of which the config says a number."""
    start = start_segments(datasets)
    if found is None or len(found.generations) != len(datasets):
        return start
    return tuple(
        own if isinstance(entry.generation, int) else recorded
        for entry, own, recorded in zip(config.datasets, start, found.generations, strict=True)
    )


def _record_generations(config: TrainConfig, validation: Sequence[ShardedPacks]) -> dict[str, int]:
    entries = config.validation.datasets if config.validation else ()
    return {
        entry.path: dataset.manifest.generation
        for entry, dataset in zip(entries, validation, strict=True)
        if entry.generation == "latest"  # a number is the config's
    }


def make_feeder(plan: Plan, world: World, entries: Sequence[DatasetConfig], datasets: Sequence[ShardedPacks]) -> Feeder:
    config = plan.config
    return Feeder(
        datasets=datasets,
        tables=[config.policy_of(entry).table() for entry in entries],
        groups=group_losses(entries, datasets, config.loss_by_source),
        rank=world.rank,
        ranks=world.ranks,
        packs_per_microbatch=config.packs_per_microbatch,
        balance=config.balance,
        per_document=config.loss_normalization == "documents",
        pinned=world.device.type == "cuda",
        windows=plan.architecture.windows,
    )


def make_validation(plan: Plan, world: World) -> Validation | None:
    wanted = plan.config.validation
    if wanted is None:
        return None
    feeder = make_feeder(plan, world, wanted.datasets, plan.validation)
    in_turn = replace(feeder, balance=False)  # a round is one micro-batch for each rank: little to balance
    return Validation(in_turn, wanted.packs, plan.config.seed)


def _find_architecture(config: TrainConfig, datasets: Sequence[ShardedPacks]) -> Architecture:
    architecture = read_architecture(config.model.path) if isinstance(config.model, ModelFolder) else config.model
    for dataset in sorted(datasets, key=lambda dataset: -dataset.manifest.vocab_size):
        architecture = check_fit(architecture, dataset.manifest, dataset.path)
    if isinstance(config.model, ModelFolder) and config.model.weights == "pretrained":
        check_same_vocabulary(config.model.path, datasets[0].folder)
    return architecture


def _fingerprint_loss(config: TrainConfig) -> str:
    """sha256 of what makes tokens' losses the step's."""
    policies = [config.policy_of(dataset).model_dump() for dataset in config.datasets]
    content = {"policies": policies, "normalization": config.loss_normalization}
    return canonical_sha256(content)


def _step_sizes(config: TrainConfig, mixture: Mixture, state: RunState) -> Sequence[int]:
    """As many whole steps as are left; or what is left of the epochs' packs, of which the last step may be short."""
    if config.epochs:
        left = sum(mixture.end_of(dataset, config.epochs - 1) - taken for dataset, taken in enumerate(state.taken))
        whole, rest = divmod(left, config.packs_per_step)
        sizes = [config.packs_per_step] * whole + [rest] * bool(rest)
    else:
        assert config.steps
        left = config.steps - state.step
        sizes = [config.packs_per_step] * left
    if left < 0:
        asked = f"epochs {config.epochs}" if config.epochs else f"steps {config.steps}"
        raise ConfigError(
            f"{config.output} has a checkpoint after step {state.step}, past the end that {asked} asks for; "
            "give more, or use --export for the model as it is there"
        )
    return sizes


def _find_checkpoint(config: TrainConfig, mode: Mode) -> Path | None:
    if mode == "doctor":
        return None
    found = list_checkpoints(config.output) if mode != "start" else []
    if found:
        return found[-1]
    if mode == "export":
        ended = (
            f"; {config.output / MODEL} is what the run made" if (config.output / MODEL).exists() else "; train first"
        )
        raise ConfigError(f"{config.output / FOLDER} holds no complete checkpoint{ended}")
    if mode == "start":
        _check_output_is_new(config.output)
    return None


def _make_folder(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"output {output} cannot be made ({error}); give a folder with --set output=FOLDER"
        ) from error
    if (output / MANIFEST).exists():
        raise ConfigError(f"output {output} is a data set; give another folder with --set output=FOLDER")


def has_ended(output: Path) -> bool:
    """Whether a run has left its model there, and no checkpoint to go on from."""
    return (output / MODEL).exists() and not list_checkpoints(output)


def _check_output_is_new(output: Path) -> None:
    for name in (METRICS, FOLDER, MODEL):
        if (output / name).exists():
            raise ConfigError(
                f"output {output} already holds {name} of another run; "
                "use --resume to go on from its newest checkpoint, or --set output=FOLDER for another folder"
            )
