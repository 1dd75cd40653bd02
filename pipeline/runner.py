"""Starting Beam and stopping it: options, the runner's name, and errors in words that a user can act on."""

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psutil

from pipeline.blocks import Unit
from pipeline.build_plan import BuildPlan
from pipeline.failures import BlockFailure, find_failure
from pipeline.worker_pool import SAFE, WorkerPool, beam_environment
from schemas.errors import ConfigError

GRACE_SECONDS = 15
_LOSES_DATA = {"DaskRunner": "Beam's DaskRunner drops outputs (finish_bundle, side branches)"}


def make_runner(name: str, pool: WorkerPool | None) -> Any:
    """The runner by name; the embedded one with worker processes of ours. Raises ConfigError where one loses data."""
    if name in _LOSES_DATA:
        raise ConfigError(f"--runner {name}: {_LOSES_DATA[name]}; use FnApiRunner, FlinkRunner, Spark or Dataflow")
    if pool is None:
        return _known_runner(name)
    from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

    return FnApiRunner(default_environment=beam_environment(pool))


def _known_runner(name: str) -> Any:
    from apache_beam.runners.runner import create_runner

    try:
        return create_runner(name)
    except (ValueError, ImportError, AttributeError) as error:
        raise ConfigError(f"--runner {name}: Beam has no such runner, or what it needs is not installed") from error


def run_beam(
    plan: BuildPlan, runner: str, workers: int, extra: Sequence[str], pool: WorkerPool | None = None, *, debug: bool
) -> None:
    """Run the pipeline to its end, in worker processes of the pool if there is one. Raises BlockFailure where a worker
    failed or died."""
    os.environ.update(SAFE)
    with _quiet_logs(debug), _quiet_threads(debug), _stopped_children():
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

        from pipeline.transforms import BuildDataset

        options = PipelineOptions([f"--direct_num_workers={workers}", *extra])
        pipeline = beam.Pipeline(runner=make_runner(runner, pool), options=options)
        pipeline | "Units" >> beam.Create(largest_first(plan.units)) | "Build" >> BuildDataset(plan)
        _run_watched(lambda: pipeline.run().wait_until_finish(), plan, pool)


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
        raise explain(errors[0], plan) from errors[0]


def explain(error: Exception, plan: BuildPlan) -> Exception:
    """The failure that a worker reported, a word about one that was killed, or the runner's error as it is."""
    text = str(error)
    reported = find_failure(text)
    if reported is not None:
        return reported
    if "Channel closed prematurely" in text:
        return BlockFailure("input", _killed(plan))
    return error


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
def _quiet_logs(debug: bool) -> Iterator[None]:
    """Beam's log lines stay out of the way unless asked for; some of them go to the root logger."""
    level = logging.INFO if debug else logging.CRITICAL
    before = {name: logging.getLogger(name).level for name in ("", "apache_beam")}
    for name in before:
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        for name, old in before.items():
            logging.getLogger(name).setLevel(old)


@contextlib.contextmanager
def _quiet_threads(debug: bool) -> Iterator[None]:
    """Threads of Beam that talk to a worker die of an exception with it."""
    before = threading.excepthook
    if not debug:
        threading.excepthook = lambda _: None
    try:
        yield
    finally:
        threading.excepthook = before


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
