"""Starting Beam and stopping it: options, the runner's name, and errors in words that a user can act on."""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence

import psutil

from pipeline.block_info import BlockState
from pipeline.build_plan import BuildPlan
from pipeline.failures import BlockFailure, find_failure
from schemas.errors import ConfigError

DEFAULT_RUNNER = "FnApiRunner"
_LOSES_DATA = {"DaskRunner": "Beam's DaskRunner drops outputs (finish_bundle, side branches)"}


def default_workers(units: int) -> int:
    return max(1, min(len(os.sched_getaffinity(0)), units))


def beam_options(runner: str, workers: int, extra: Sequence[str]) -> list[str]:
    """Raises ConfigError for a runner that loses data."""
    if runner in _LOSES_DATA:
        raise ConfigError(f"--runner {runner}: {_LOSES_DATA[runner]}; use FnApiRunner, FlinkRunner, Spark or Dataflow")
    options = [f"--runner={runner}"]
    if runner == DEFAULT_RUNNER and workers > 1:
        options += [f"--direct_num_workers={workers}", "--direct_running_mode=multi_processing"]
    return [*options, *extra]


def run_beam(plan: BuildPlan, runner: str, workers: int, extra: Sequence[str], *, debug: bool) -> None:
    """Run the pipeline to its end. Raises BlockFailure where a worker failed or died."""
    options = beam_options(runner, workers, extra)
    os.environ["PYTHONSAFEPATH"] = "1"  # a user's own schemas.py must not be imported in the place of ours
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from pipeline.transforms import BuildDataset

    with _quiet_logs(debug), _stopped_children():
        pipeline = beam.Pipeline(options=PipelineOptions(options))
        units = pipeline | "Units" >> beam.Create(plan.units) | "Spread" >> beam.Reshuffle()
        units | "Build" >> BuildDataset(plan)
        try:
            pipeline.run().wait_until_finish()
        except Exception as error:
            raise explain(error, plan) from error


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
    peak = max((peak_of(plan, name) for name in names if name.endswith(".json")), default=0)
    needed = f"; workers took up to {peak / 2**20:.0f} MiB for a block so far" if peak else ""
    size = plan.recipe.config.block_bytes / 2**20
    return (
        f"a worker process was killed, most likely for want of memory, while at block {', '.join(open_blocks) or '?'} "
        f"(block_bytes is {size:.4g} MiB{needed}). Build again to go on from here; with fewer --workers or a smaller "
        "block_bytes (which makes another recipe) it needs less"
    )


def peak_of(plan: BuildPlan, name: str) -> int:
    data = plan.output.read(f"{plan.state.folder}/{name}")
    return BlockState.model_validate_json(data).peak_memory


@contextlib.contextmanager
def _quiet_logs(debug: bool) -> Iterator[None]:
    """Beam's own log lines stay out of the way unless asked for."""
    logger = logging.getLogger("apache_beam")
    before = logger.level
    logger.setLevel(logging.INFO if debug else logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def _stopped_children() -> Iterator[None]:
    """No worker process outlives the run, however it ends."""
    try:
        yield
    finally:
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
