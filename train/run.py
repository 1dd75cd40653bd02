"""A run on this rank, built from the plan: model, optimizer, what feeds them, and the log."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch.optim import Optimizer

from train.architecture import Architecture
from train.attention import Kernel, choose_kernel
from train.background import BackgroundWriter
from train.checkpoint import RunState, changed_settings, load_checkpoint
from train.config import ModelFolder, TrainConfig
from train.display import make_display
from train.feed import Feeder
from train.fetch_ahead import describe_want
from train.flops import device_peak_flops
from train.metrics import MetricsLog, peak_memory
from train.model import Decoder
from train.nonfinite import NONFINITE
from train.optim import make_optimizer
from train.packs import ShardedPacks
from train.parallel import World, describe_ranks, dtypes_of, make_mesh, parallelize, use_deterministic_kernels
from train.plan import Plan, make_feeder, make_validation
from train.profiler import ProfilerWindow, open_window
from train.signals import StopFlag
from train.tensorboard import EventFiles
from train.validate import Validation
from train.weights import initialise, load_weights


@dataclass(slots=True)
class Run:
    """A run on this rank. `state` moves on with each step."""

    plan: Plan
    world: World
    model: Decoder
    optimizer: Optimizer
    kernel: Kernel
    feeder: Feeder
    validation: Validation | None
    log: MetricsLog | None  # on rank 0
    stop: StopFlag
    writer: BackgroundWriter
    state: RunState

    def is_due(self, every: int | None) -> bool:
        """Whether something happens now that happens after each `every` steps and after the last."""
        return every is not None and (self.state.step % every == 0 or self.state.step == self.plan.steps)

    @property
    def validate_every(self) -> int | None:
        return self.plan.config.validation.every if self.plan.config.validation else None

    @property
    def sizes(self) -> Sequence[int]:
        """The packs of each step that is left."""
        return self.plan.sizes[self.state.step - self.plan.state.step :]


def introduce(run: Run) -> None:
    plan, config = run.plan, run.plan.config
    for entry, dataset in zip(config.datasets, plan.datasets, strict=True):
        trained = dataset.count_trained_tokens(config.policy_of(entry))
        packs = f"{len(dataset):,} packs of {dataset.manifest.seq_len:,}"
        tell(run, f"{entry.path}{_generation(dataset)}: {packs}, {trained:,} tokens trained")
    if want := describe_want(plan.datasets, config.shuffle_shards):
        tell(run, want)
    parameters = sum(parameter.numel() for parameter in run.model.parameters())
    where = describe_ranks(config, run.world)
    tell(run, f"{parameters:,} parameters, {config.dtype} on {where}, attention by {run.kernel}")
    if run.validation:
        tell(run, f"validation on {sum(run.validation.sizes()):,} packs")
    if plan.checkpoint:
        tell(run, f"going on after step {plan.state.step} from {plan.checkpoint}")
        for line in changed_settings(plan.state, config.model_dump(mode="json")):
            tell(run, f"changed since then: {line}")


def _generation(dataset: ShardedPacks) -> str:
    generation = dataset.manifest.generation
    return f", generation {generation}" if generation else ""


def start_run(plan: Plan, world: World, stop: StopFlag) -> Run:
    """Build the model, and load the checkpoint where the run goes on."""
    config = plan.config
    use_deterministic_kernels(config.deterministic)
    if world.rank == 0:
        (config.output / NONFINITE).unlink(missing_ok=True)  # of the attempt before
    kernel = find_kernel(plan, world)
    model = make_model(config, plan.architecture, world, empty=plan.checkpoint is not None)
    optimizer = make_optimizer(model, config)
    if plan.checkpoint:
        load_checkpoint(plan.checkpoint, model, optimizer)
    feeder = make_feeder(plan, world, config.datasets, plan.datasets)
    log = open_log(plan, world) if world.rank == 0 else None
    validation, writer = make_validation(plan, world), BackgroundWriter(world.device)
    return Run(plan, world, model, optimizer, kernel, feeder, validation, log, stop, writer, plan.state)


def open_log(plan: Plan, world: World) -> MetricsLog:
    config, peak = plan.config, device_peak_flops(world.device)
    watchers = (
        [EventFiles(config.output, plan.state.step, config.model_dump(mode="json"))] if config.tensorboard else []
    )
    return MetricsLog(
        config.output,
        log_every=config.log_every,
        steps=plan.steps,
        start_step=plan.state.step,
        display=make_display(plan.steps),
        watchers=watchers,
        peak_flops=peak and peak * world.ranks,
        memory=lambda: peak_memory(world.device),
    )


def open_profiler(run: Run) -> AbstractContextManager[ProfilerWindow]:
    config, left = run.plan.config, range(run.state.step + 1, run.plan.steps + 1)
    return open_window(config.profile, left, config.output, run.world, lambda line: tell(run, line))


def find_kernel(plan: Plan, world: World) -> Kernel:
    """Raises ConfigError where the one that the config asks for cannot run."""
    config, seq_len = plan.config, plan.datasets[0].manifest.seq_len
    dtype, windows = dtypes_of(config)[0], plan.architecture.windows
    return choose_kernel(config.attention, world.device, dtype, config.compile, seq_len, windows)


def make_model(config: TrainConfig, architecture: Architecture, world: World, *, empty: bool = False) -> Decoder:
    """The same weights on any ranks in any placement; none of them ever holds more than its share. empty: a checkpoint
    follows. Raises ConfigError, before memory is taken, where the ranks do not fit `shard_ranks`."""
    mesh = make_mesh(config.shard_ranks, world)
    with torch.device("meta"):
        model = Decoder(architecture).to(dtypes_of(config)[1])
    parallelize(model, config, mesh)
    model.to_empty(device="cpu" if config.cpu_offload else world.device)
    if empty:
        return model
    if isinstance(config.model, ModelFolder) and config.model.weights == "pretrained":
        load_weights(model, config.model.path)
    else:
        initialise(model, config.seed)
    return model


def tell(run: Run, line: str) -> None:
    """Where the lines of steps go."""
    if run.log:
        run.log.note(line)
