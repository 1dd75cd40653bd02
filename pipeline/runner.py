"""Starting Beam and stopping it, and errors in words that a user can act on."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

import psutil

from pipeline.beam_log import KeptLog, kept_log
from pipeline.blocks import Unit
from pipeline.build_plan import BuildPlan
from pipeline.failures import BlockFailure, RunnerFailed, find_failure
from pipeline.job import prepare_options, run_submitted
from pipeline.plan_file import write_plan
from pipeline.runner_choice import EMBEDDED
from pipeline.worker_pool import SAFE, WorkerPool, beam_environment
from schemas.errors import ConfigError

GRACE_SECONDS = 15
SHOWN_LINES = 30


def run_beam(
    plan: BuildPlan, runner: str, workers: int, extra: Sequence[str], pool: WorkerPool | None = None, *, debug: bool
) -> None:
    """Run the pipeline to its end: with the embedded runner in this many worker processes, of the pool if there is
    one; with any other as a job that is submitted, and cancelled where this process is interrupted.

    Raises ConfigError for options that Beam does not take, BlockFailure where a worker failed or died, RunnerFailed
    where the runner did.
    """
    os.environ.update(SAFE)
    before = plan.state.published()
    with kept_log(debug=debug) as log, _stopped_children():
        try:
            pipeline = _make_pipeline(plan, runner, workers, extra, pool)
            if runner == EMBEDDED:
                _run_watched(lambda: pipeline.run().wait_until_finish(), plan, pool)
            else:
                run_submitted(pipeline)
        except (ConfigError, BlockFailure):
            raise
        except Exception as error:
            raise explain(error, plan, runner, log) from error
        if runner != EMBEDDED:
            _check_published(plan, runner, before)


def _check_published(plan: BuildPlan, runner: str, before: datetime | None) -> None:
    """`before`: when an earlier run of this build had published."""
    if plan.state.published() == before:
        raise RunnerFailed(
            f"{runner}: the job is done, but nothing is published in {plan.output.shown}: was it only prepared (an "
            "option after --), or is the output a folder that this machine does not share with the workers?"
        )


def _make_pipeline(plan: BuildPlan, runner: str, workers: int, extra: Sequence[str], pool: WorkerPool | None) -> Any:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import DirectOptions
    from apache_beam.runners.portability.portable_runner import PortableRunner

    from pipeline.beam_options import parse_options
    from pipeline.transforms import BuildDataset

    made = make_runner(runner, pool)
    options = parse_options(extra, has_job_service=isinstance(made, PortableRunner))
    if runner == EMBEDDED:
        options.view_as(DirectOptions).direct_num_workers = workers
    else:
        prepare_options(options)
    try:
        pipeline = beam.Pipeline(runner=made, options=options)
    except ValueError as error:  # Beam's validation of the options
        raise ConfigError(f"after --: {error}") from error
    units = [unit.index for unit in largest_first(plan.units)]
    pipeline | "Units" >> beam.Create(units) | "Build" >> BuildDataset(write_plan(plan))
    return pipeline


def make_runner(name: str, pool: WorkerPool | None) -> Any:
    """The runner by name; the embedded one with worker processes of ours. Raises ConfigError where Beam lacks it."""
    if pool is not None:
        from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

        return FnApiRunner(default_environment=beam_environment(pool))
    from apache_beam.runners.runner import create_runner

    try:
        return create_runner(name)
    except (ValueError, ImportError, AttributeError) as error:
        raise ConfigError(f"--runner {name}: Beam has no such runner, or what it needs is not installed") from error


def largest_first(units: Sequence[Unit]) -> list[Unit]:
    """The embedded runner deals them to its workers one by one, in this order."""
    return sorted(units, key=lambda unit: -sum(part.end - part.start for part in unit.stretches))


def _run_watched(run: Callable[[], object], plan: BuildPlan, pool: WorkerPool | None) -> None:
    """Run in a thread and watch the workers: Beam waits for ever for one that died before it had connected."""
    errors: list[Exception] = []

    def target() -> None:
        try:
            run()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=target, name="beam", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
        if pool is not None and pool.has_failed:
            thread.join(GRACE_SECONDS)  # most often the runner notices too, and says more
            break
    if thread.is_alive():
        raise BlockFailure("input", _killed(plan))
    if errors:
        raise errors[0]


def explain(error: Exception, plan: BuildPlan, runner: str, log: KeptLog) -> Exception:
    """The failure that a worker reported, a word about one that was killed, or what the runner says."""
    text = str(error) or type(error).__name__
    reported = find_failure("\n".join([text, *log.lines]))
    if reported is not None:
        return reported
    if "Channel closed prematurely" in text:
        return BlockFailure("input", _killed(plan))
    if runner == EMBEDDED:
        return error
    said = [*text.splitlines(), *(line for line in log.lines if line not in text)]
    return RunnerFailed("\n  ".join([f"{runner} failed:", *said[-SHOWN_LINES:]]))


def _killed(plan: BuildPlan) -> str:
    state = plan.state
    names = set(state.names())
    begun = sorted(name.removesuffix(".begun") for name in names if name.endswith(".begun"))
    open_blocks = [name for name in begun if f"{name}.json" not in names]
    finished = filter(None, map(state.read, names))
    peak = max((block.peak_memory for block in finished), default=0)
    needed = f"; workers took up to {peak / 2**20:.0f} MiB for a block so far" if peak else ""
    size = plan.recipe.config.block_bytes / 2**20
    place = f"at block {', '.join(open_blocks)}" if open_blocks else "between two blocks, or publishing"
    return (
        f"a worker process was killed, most likely for want of memory, while {place} "
        f"(block_bytes is {size:.4g} MiB{needed}). Build again to go on from here; with fewer --workers or a smaller "
        "block_bytes (which makes another recipe) it needs less"
    )


@contextlib.contextmanager
def _stopped_children() -> Iterator[None]:
    """No process that the run has started outlives it, however it ends."""
    before = set(psutil.Process().children(recursive=True))
    try:
        yield
    finally:
        for child in set(psutil.Process().children(recursive=True)) - before:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
