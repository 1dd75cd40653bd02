"""A training run, from the plan to the exported model. Every rank runs all of it; rank 0 alone prints and writes."""

import math
import os
from dataclasses import dataclass
from time import monotonic
from typing import NoReturn

import torch
from torch.optim import Optimizer

from schemas.errors import ConfigError, DatasetError
from train.architecture import Architecture
from train.attention import Kernel, choose_kernel
from train.checkpoint import RunState, changed_settings, list_checkpoints, load_checkpoint, load_model, save_checkpoint
from train.config import ModelFolder, TrainConfig
from train.display import make_display
from train.export import export
from train.feed import Feeder, StepData, end_in_error, feed_steps, of_another_rank, read_ahead
from train.flops import device_peak_flops, step_flops
from train.metrics import MetricsLog, StepMetrics, peak_memory
from train.model import Decoder
from train.nonfinite import NONFINITE, find_nonfinite
from train.optim import clip_gradients, make_optimizer, update
from train.parallel import World, dtypes_of, join_world, parallelize, use_deterministic_kernels
from train.plan import MODEL, Mode, Plan, has_ended, make_feeder, make_validation, plan_run
from train.schedule import learning_rate_at
from train.signals import StopFlag, stop_on_signals
from train.step import StepCount, StepLoss, accumulate_gradients, count_step
from train.validate import Validation, validate
from train.weights import initialise, load_weights


def train(config: TrainConfig, mode: Mode = "start") -> None:
    """Train, save and export. What is wrong with config, model or data is raised before the ranks meet."""
    if mode == "resume" and has_ended(config.output):
        if os.environ.get("RANK", "0") == "0":
            print(f"this run has ended: its model is in {config.output / MODEL}; it left no checkpoint to go on from")
        return
    plan = plan_run(config, mode)
    with join_world() as world, stop_on_signals() as stop:
        check_ranks_agree(plan, world)
        if mode == "export":
            model = make_model(config, plan.architecture, world, empty=True)
            assert plan.checkpoint is not None
            load_model(plan.checkpoint, model)
            export_model(plan, model, world)
            return
        run = start_run(plan, world, stop)
        introduce(run)
        run.state = run.state.model_copy(update={"config": config.model_dump(mode="json")})
        if run_steps(run):
            export_model(plan, run.model, world)


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
    state: RunState

    def is_due(self, every: int | None) -> bool:
        """Whether something happens now that happens after each `every` steps and after the last."""
        return every is not None and (self.state.step % every == 0 or self.state.step == self.plan.steps)


def introduce(run: Run) -> None:
    plan, config = run.plan, run.plan.config
    for entry, dataset in zip(config.datasets, plan.datasets, strict=True):
        trained = dataset.count_trained_tokens(config.policy_of(entry))
        tell(run, f"{entry.path}: {len(dataset):,} packs of {dataset.manifest.seq_len:,}, {trained:,} tokens trained")
    parameters = sum(parameter.numel() for parameter in run.model.parameters())
    where = f"{run.world.ranks} x {run.world.device.type}"
    tell(run, f"{parameters:,} parameters, {config.dtype} on {where}, attention by {run.kernel}")
    if run.validation:
        tell(run, f"validation on {sum(run.validation.sizes()):,} packs")
    if plan.checkpoint:
        tell(run, f"going on after step {plan.state.step} from {plan.checkpoint}")
        for line in changed_settings(plan.state, config.model_dump(mode="json")):
            tell(run, f"changed since then: {line}")


def start_run(plan: Plan, world: World, stop: StopFlag) -> Run:
    """Build the model, and load the checkpoint where the run goes on."""
    config = plan.config
    use_deterministic_kernels(config.deterministic)
    if world.rank == 0:
        (config.output / NONFINITE).unlink(missing_ok=True)  # of the attempt before
    kernel = choose_kernel(config.attention, world.device, dtypes_of(config)[0], config.compile)
    model = make_model(config, plan.architecture, world, empty=plan.checkpoint is not None)
    optimizer = make_optimizer(model, config)
    if plan.checkpoint:
        load_checkpoint(plan.checkpoint, model, optimizer)
    feeder = make_feeder(plan, world, config.datasets, plan.datasets)
    log = open_log(plan, world) if world.rank == 0 else None
    return Run(plan, world, model, optimizer, kernel, feeder, make_validation(plan, world), log, stop, plan.state)


def check_ranks_agree(plan: Plan, world: World) -> None:
    """Raises ConfigError where ranks would go on from different checkpoints, or some from none."""
    own = plan.state.step if plan.checkpoint else -1
    steps = world.sum([own * (rank == world.rank) for rank in range(world.ranks)])
    if len(set(steps)) > 1:
        raise ConfigError(
            f"ranks would go on after different steps ({min(steps):.0f} to {max(steps):.0f}, -1 is none): they see "
            f"different folders at {plan.config.output}; output must be a file system that all nodes share"
        )


def open_log(plan: Plan, world: World) -> MetricsLog:
    peak = device_peak_flops(world.device)
    return MetricsLog(
        plan.config.output,
        log_every=plan.config.log_every,
        steps=plan.steps,
        start_step=plan.state.step,
        display=make_display(plan.steps),
        peak_flops=peak and peak * world.ranks,
        memory=lambda: peak_memory(world.device),
    )


def make_model(config: TrainConfig, architecture: Architecture, world: World, *, empty: bool = False) -> Decoder:
    """The same weights on any number of ranks; none of them ever holds the whole model. empty: a checkpoint follows."""
    with torch.device("meta"):
        model = Decoder(architecture).to(dtypes_of(config)[1])
    parallelize(model, config, world.mesh)
    model.to_empty(device=world.device)
    if empty:
        return model
    if isinstance(config.model, ModelFolder) and config.model.weights == "pretrained":
        load_weights(model, config.model.path)
    else:
        initialise(model, config.seed)
    return model


def run_steps(run: Run) -> bool:
    """Whether all steps are done; a signal stops the run before, which then is saved."""
    config, checkpoints = run.plan.config, run.plan.config.checkpoints
    validate_every = config.validation.every if config.validation else None
    steps = feed_steps(run.feeder, run.plan.mixture, run.state.taken, run.plan.sizes)
    if run.is_due(validate_every):
        measure_once(run)
    for data, waited in read_ahead(end_in_error(steps)):
        started = monotonic() - waited
        if isinstance(data, DatasetError):
            count_step(None, bool(run.stop), run.world)
            stop_unreadable(run, data)
        count = count_step(data.microbatches, bool(run.stop), run.world)
        if count.failed:
            stop_unreadable(run, of_another_rank())
        if count.stop:
            save(run)
            tell(run, f"stopped by a signal after step {run.state.step}; go on with --resume")
            return False
        done = take_step(run, data, count) if count.weight else None
        advance(run, data, skipped=done is None)
        if run.log and done:
            run.log.add(describe_step(run, data, count, done, monotonic() - started, waited))
        if run.is_due(checkpoints.every):
            save(run)
        if run.is_due(validate_every):
            measure(run)
    finish(run)
    skipped = f", {run.state.skipped:,} skipped for want of a trained token" if run.state.skipped else ""
    tell(run, f"{run.state.step - run.state.skipped:,} steps done{skipped}")
    return True


def stop_unreadable(run: Run, error: DatasetError) -> NoReturn:
    """Raise the error, which some rank has and all know of. What was done is saved before."""
    if run.state.step > run.plan.state.step:
        try:
            save(run)
        except OSError as failed:
            raise error from failed
        tell(run, f"stopped after step {run.state.step}: packs cannot be read; go on with --resume when they can")
    raise error


@dataclass(frozen=True, slots=True)
class StepDone:
    loss: StepLoss
    grad_norm: float
    learning_rate: float


def take_step(run: Run, data: StepData, count: StepCount) -> StepDone:
    """One optimizer step. Raises NonFiniteStep, on all ranks, before it touches the weights."""
    config, step = run.plan.config, run.state.step
    loss = accumulate_gradients(run.model, data.microbatches, count, len(run.feeder.groups), run.kernel, run.world)
    grad_norm = clip_gradients(run.model, config.clip_norm)
    if not (math.isfinite(loss.mean) and math.isfinite(grad_norm)):
        error = find_nonfinite(step + 1, loss, grad_norm, data, config.datasets, config.output, run.world)
        try:
            save(run)
        except OSError as failed:
            raise error from failed
        raise error
    learning_rate = learning_rate_at(step, run.plan.steps, config)
    update(run.optimizer, learning_rate)
    return StepDone(loss, grad_norm, learning_rate)


def advance(run: Run, data: StepData, *, skipped: bool) -> None:
    """A step without a trained token is only counted."""
    moved = {"step": run.state.step + 1, "skipped": run.state.skipped + skipped, "taken": data.taken}
    run.state = run.state.model_copy(update=moved)


def describe_step(
    run: Run, data: StepData, count: StepCount, done: StepDone, seconds: float, waited: float
) -> StepMetrics:
    loss = done.loss
    flops = step_flops(
        run.plan.architecture, tokens=count.tokens, trained_tokens=count.trained_tokens, pairs=count.pairs
    )
    return StepMetrics(
        step=run.state.step,
        loss=loss.mean,
        trained_tokens=count.trained_tokens,
        tokens=count.tokens,
        slots=len(data.packs) * run.plan.datasets[0].manifest.seq_len,
        grad_norm=done.grad_norm,
        lr=done.learning_rate,
        seconds=seconds,
        data_wait=waited,
        flops=flops,
        losses=run.feeder.groups.by_dataset(loss.sums, loss.weights),
        source_losses=run.feeder.groups.each(loss.sums, loss.weights),
    )


def measure(run: Run) -> None:
    assert run.validation is not None
    losses = validate(run.model, run.validation, run.kernel, run.stop, run.world)
    if run.log and losses is not None:
        run.log.validation(run.state.step, losses)


def measure_once(run: Run) -> None:
    """At the start, unless the log has it from before: a run may have been stopped between its checkpoint and this."""
    missing = run.log is not None and not run.log.has_validation(run.state.step)
    if any(run.world.sum([float(missing)])):
        measure(run)


def finish(run: Run) -> None:
    """Where there are checkpoints the newest is that of the end; so is one where a signal came in the last step."""
    flush_log(run)
    asked = bool(run.stop) or (run.world.rank == 0 and bool(list_checkpoints(run.plan.config.output)))
    if any(run.world.sum([float(asked)])):
        save(run)


def tell(run: Run, line: str) -> None:
    """Where the lines of steps go."""
    if run.log:
        run.log.note(line)


def flush_log(run: Run) -> None:
    if run.log:
        run.log.flush()


def save(run: Run) -> None:
    """With the log as it will be found after a resume: its lines end where checkpoints do."""
    config = run.plan.config
    flush_log(run)
    folder = save_checkpoint(config.output, run.state, run.model, run.optimizer, config.checkpoints.keep)
    if folder:
        tell(run, f"checkpoint in {folder}")


def export_model(plan: Plan, model: Decoder, world: World) -> None:
    """Write the model as a Hugging Face folder: OUTPUT/model."""
    config = plan.config
    export(model, config.output / MODEL, plan.serving, getattr(torch, config.export_dtype or config.dtype))
    world.say(f"model in {config.output / MODEL}")
