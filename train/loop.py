"""A training run, from the plan to the exported model. Every rank runs all of it; rank 0 alone prints and writes."""

import math
import os
from contextlib import closing
from dataclasses import dataclass
from time import monotonic
from typing import NoReturn

import torch
from torch.profiler import record_function

from schemas.errors import DatasetError
from train.checkpoint import list_checkpoints, load_model, tensors_of, write_checkpoint
from train.config import TrainConfig
from train.export import export
from train.feed import OrError, StepData, end_in_error, feed_steps, of_another_rank, read_ahead
from train.fetch_ahead import raise_file_limit
from train.flops import step_flops
from train.follow import agree, find_limits, known_epochs, look_up
from train.metrics import StepMetrics
from train.model import Decoder
from train.nonfinite import find_nonfinite
from train.optim import clip_gradients, update
from train.parallel import World, join_world
from train.plan import MODEL, Mode, Plan, has_ended, make_feeder, plan_run
from train.profiler import ProfilerWindow
from train.run import Run, introduce, make_model, open_profiler, start_run, tell
from train.schedule import learning_rate_at
from train.signals import stop_on_signals
from train.step import StepCount, StepLoss, accumulate_gradients, count_step, look_at_step
from train.validate import validate


def train(config: TrainConfig, mode: Mode = "start") -> None:
    """Train, save and export. What is wrong with config, model or data is raised before the ranks meet."""
    if mode == "resume" and has_ended(config.output):
        if os.environ.get("RANK", "0") == "0":
            print(f"this run has ended: its model is in {config.output / MODEL}; it left no checkpoint to go on from")
        return
    raise_file_limit()
    plan = plan_run(config, mode)
    with join_world() as world, stop_on_signals() as stop:
        plan = agree(plan, mode, world)
        if mode == "export":
            model = make_model(config, plan.architecture, world, empty=True)
            assert plan.checkpoint is not None
            load_model(plan.checkpoint, model)
            export_model(plan, model, world)
            return
        run = start_run(plan, world, stop)
        introduce(run)
        run.state = run.state.model_copy(update={"config": config.model_dump(mode="json")})
        with closing(run.writer):
            done = run_steps(run)
        if done:
            export_model(plan, run.model, world)


def run_steps(run: Run) -> bool:
    """Whether all steps are done; a signal stops the run before, which then is saved."""
    if run.is_due(run.validate_every):
        measure_once(run)
    with open_profiler(run) as window:
        if not run_all(run, window):
            return False
    finish(run)
    skipped = f", {run.state.skipped:,} skipped for want of a trained token" if run.state.skipped else ""
    tell(run, f"{run.state.step - run.state.skipped:,} steps done{skipped}")
    if run.log:
        run.log.end()
    return True


def run_all(run: Run, window: ProfilerWindow) -> bool:
    """Whether no signal stops the run before its last step."""
    epochs = known_epochs(run.plan)
    while run.state.step < run.plan.steps:
        limits = find_limits(run.plan, epochs)
        steps = feed_steps(run.feeder, run.plan.mixture, run.state.taken, run.sizes, limits)
        for data, waited in window.watch(read_ahead(end_in_error(steps)), run.state.step + 1):
            if not do_step(run, data, waited):
                return False
        if run.state.step < run.plan.steps:
            epochs = follow(run, epochs)
    return True


def do_step(run: Run, data: OrError[StepData], waited: float) -> bool:
    """A step with all that is due after it; False where a signal stops the run before it, which then is saved."""
    started = monotonic() - waited
    if isinstance(data, DatasetError):
        count_step(None, has_to_stop(run), run.world)
        stop_unreadable(run, data)
    count = count_step(data.microbatches, has_to_stop(run), run.world)
    if count.failed:
        stop_unreadable(run, of_another_rank())
    if count.stop:
        save(run)
        if run.log:
            run.log.end()
        tell(run, f"stopped by a signal after step {run.state.step}; go on with --resume")
        return False
    done = take_step(run, data, count) if count.weight else None
    advance(run, data, skipped=done is None)
    if run.log and done:
        run.log.add(describe_step(run, data, count, done, monotonic() - started, waited))
    if run.is_due(run.plan.config.checkpoints.every):
        save(run, background=run.plan.config.checkpoints.background)
    if run.is_due(run.validate_every):
        measure(run)
    return True


def has_to_stop(run: Run) -> bool:
    """For a signal; or for a checkpoint that failed in the background, which to save raises on all ranks."""
    if folder := run.writer.collect():
        tell(run, f"checkpoint in {folder}")
    return bool(run.stop) or run.writer.failed


def follow(run: Run, epochs: tuple[int, ...]) -> tuple[int, ...]:
    """The epochs that are known then; the plan has the generations that were found."""
    try:
        plan, epochs = look_up(run.plan, epochs, run.state.taken, run.sizes[0], run.world)
    except DatasetError as error:  # which all ranks raise
        stop_unreadable(run, error)
    for entry, before, dataset in zip(plan.config.datasets, run.plan.datasets, plan.datasets, strict=True):
        if dataset is not before:
            tell(run, f"{entry.path}: now at generation {dataset.manifest.generation}, {len(dataset):,} packs")
    run.plan, run.feeder = plan, make_feeder(plan, run.world, plan.config.datasets, plan.datasets)
    return epochs


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
    own = accumulate_gradients(run.model, data.microbatches, count, len(run.feeder.groups), run.kernel, run.world)
    norm = clip_gradients(run.model, config.clip_norm)
    loss, grad_norm = look_at_step(own, norm, run.world)
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
    moved = {
        "step": run.state.step + 1,
        "skipped": run.state.skipped + skipped,
        "taken": data.taken,
        "generations": run.plan.mixture.segments,
        "data": run.plan.mixture.fingerprint,
    }
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


@record_function("validation")
def measure(run: Run) -> None:
    assert run.validation is not None
    try:
        losses = validate(run.model, run.validation, run.kernel, run.stop, run.world)
    except DatasetError as error:  # which all ranks raise
        stop_unreadable(run, error)
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
    wait_for_writer(run)
    asked = bool(run.stop) or (run.world.rank == 0 and bool(list_checkpoints(run.plan.config.output)))
    if any(run.world.sum([float(asked)])):
        save(run)


def flush_log(run: Run) -> None:
    if run.log:
        run.log.flush()


@record_function("checkpoint")
def save(run: Run, *, background: bool = False) -> None:
    """With the log as it will be found after a resume: its lines end where checkpoints do."""
    output, keep = run.plan.config.output, run.plan.config.checkpoints.keep
    flush_log(run)
    wait_for_writer(run)
    if background:
        run.writer.start(output, run.state, run.model, run.optimizer, keep)
    elif folder := write_checkpoint(output, run.state, tensors_of(run.model, run.optimizer), keep):
        tell(run, f"checkpoint in {folder}")


def wait_for_writer(run: Run) -> None:
    """For a checkpoint that is being written in the background. Raises, on all ranks, what was wrong with it."""
    if run.writer.is_writing:
        since = monotonic()
        folder = run.writer.wait()
        tell(run, f"checkpoint in {folder}; the run waited {monotonic() - since:.1f} s for it")


def export_model(plan: Plan, model: Decoder, world: World) -> None:
    """Write the model as a Hugging Face folder: OUTPUT/model."""
    config = plan.config
    export(model, config.output / MODEL, plan.serving, getattr(torch, config.export_dtype or config.dtype))
    world.say(f"model in {config.output / MODEL}")
