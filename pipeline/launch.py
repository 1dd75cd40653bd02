"""`packline build`: from a config to a published data set. `build(config)` is the same as a Python call."""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import orjson
from rich.console import Console

from pipeline.build_plan import BuildPlan, plan_build, with_engine
from pipeline.config import BuildConfig, load_config
from pipeline.exclusive import SETTLE_SECONDS, refuses_second
from pipeline.existing import find_published, other_builds
from pipeline.failures import BlockFailure, BudgetExceeded, EnginesDiffer
from pipeline.in_use import mark_started
from pipeline.preflight import check_first_rows
from pipeline.progress import shown_progress
from pipeline.run_facts import RunFacts
from pipeline.runner import run_beam
from pipeline.runner_choice import EMBEDDED, check_workers, choose_runner
from pipeline.worker_pool import WorkerPool, default_workers, started_pool
from schemas.errors import ConfigError, DatasetError
from schemas.manifest import Manifest, load_manifest
from schemas.store import Folder


@dataclass(frozen=True)
class BuildResult:
    """`built` is False where the data set was there already, and whole. `workers` are those of the embedded runner; of
    another runner, the processes that were seen to finish a block."""

    manifest: Manifest
    plan: BuildPlan
    built: bool
    workers: int
    facts: RunFacts


def build(
    config: BuildConfig | str | Path,
    *,
    runner: str = EMBEDDED,
    workers: int | None = None,
    beam_args: Sequence[str] = (),
    console: Console | None = None,
    debug: bool = False,
    check: bool = False,
    pool: WorkerPool | None = None,
) -> BuildResult:
    """Build the data set that a config describes, or find it built. `pool` are processes that were started before.
    With `check` what is there already is compared by its sha256, and built again where it differs.

    Raises ConfigError for a config that cannot be used, found before Beam starts; BudgetExceeded where too many rows
    were rejected or too few turns have an end; DatasetError where the input or a block was at fault.
    """
    facts = RunFacts()
    runner = choose_runner(runner)
    check_workers(runner, workers)
    if not isinstance(config, BuildConfig):
        config = load_config(Path(config))
    console = console or Console(stderr=True, quiet=True)
    with started_pool(runner, workers, debug=debug) if pool is None else contextlib.nullcontext(pool) as pool:
        if pool is not None:
            pool.prepare(config)
        plan = replace(plan_build(config), check_hashes=check)
        _warn(console, plan.warnings)
        workers = default_workers(len(plan.units)) if workers is None else workers
        check_is_seen(plan, runner, workers)
        published = find_published(plan)
        if published is not None and not check:
            return BuildResult(published, plan, False, workers, facts)
        result = run_plan(plan, runner, workers, beam_args, pool, console, facts, debug=debug)
    return result if published is None else replace(result, built=facts.blocks > 0)


def run_plan(
    plan: BuildPlan,
    runner: str,
    workers: int,
    beam_args: Sequence[str],
    pool: WorkerPool | None,
    console: Console,
    facts: RunFacts,
    *,
    debug: bool,
) -> BuildResult:
    """Run the pipeline of a plan, which publishes what it makes. Raises as `build` does."""
    plan, engine = with_engine(plan, plan.recipe.config.engine)
    _warn(console, (*engine.warnings, *check_first_rows(plan), *check_writable(plan.output), *other_builds(plan)))
    mark_started(plan.output, plan.state.folder)
    run = partial(_run, runner, workers, beam_args, pool if workers > 1 else None, console, facts, debug=debug)
    try:
        run(plan)
    except EnginesDiffer as error:
        plan = _without_fast_engine(plan, error, console)
        run(plan)
    facts.published = plan.state.published()
    workers = workers if runner == EMBEDDED else len(facts.processes)
    result = BuildResult(load_manifest(plan.output, plan.generation.number), plan, True, workers, facts)
    _write_run_facts(result, runner)
    return result


def check_is_seen(plan: BuildPlan, runner: str, workers: int) -> None:
    """Raises ConfigError for files in the memory of a process that is not the only one."""
    in_memory = next((url for url in (plan.output.url, *plan.urls.values()) if url.startswith("memory://")), None)
    if in_memory and not (runner == EMBEDDED and workers == 1):
        raise ConfigError(
            f"{in_memory}: memory:// is seen by one process alone, and workers are others; build with {EMBEDDED} "
            "and workers=1, or give a folder or an object store's URL"
        )


def check_writable(output: Folder) -> list[str]:
    """A warning of a store that lets two writers publish. Raises ConfigError where nothing can be written."""
    try:
        if refuses_second(output):
            return []
    except OSError as error:
        raise ConfigError(f"output: {output.shown} cannot be written: {error.strerror or error}") from error
    return [
        f"output: {output.shown}: the store does not refuse to create a file that is there already. So the manifest "
        f"is looked for, written, and read back after {SETTLE_SECONDS:g} s: let no build of another config write into "
        "this folder at the same time (two of the same config do no harm)"
    ]


def _warn(console: Console, warnings: Iterable[str]) -> None:
    for warning in warnings:
        console.print(f"warning: {warning}", highlight=False, markup=False)


def _run(
    runner: str,
    workers: int,
    beam_args: Sequence[str],
    pool: WorkerPool | None,
    console: Console,
    facts: RunFacts,
    plan: BuildPlan,
    *,
    debug: bool,
) -> None:
    try:
        with shown_progress(plan, console, facts):
            run_beam(plan, runner, workers, beam_args, pool, debug=debug)
    except BlockFailure as failure:
        if failure.kind == "budget":
            raise BudgetExceeded(failure.message) from failure
        if failure.kind == "engine":
            raise EnginesDiffer(failure.message) from failure
        if failure.kind == "input":
            raise DatasetError(failure.message) from failure
        raise


def _without_fast_engine(plan: BuildPlan, error: EnginesDiffer, console: Console) -> BuildPlan:
    """Raises DatasetError where the config asks for the fast engine alone."""
    if plan.recipe.config.engine == "fast":
        raise DatasetError(f"{error}. Nothing is published; build again with --set engine=reference") from error
    console.print(
        f"warning: {error}. Nothing is published of this. Building again with engine: reference; please report the "
        "text above",
        style="bold red",
        highlight=False,
        markup=False,
    )
    return with_engine(plan, "reference")[0]


def _write_run_facts(result: BuildResult, runner: str) -> None:
    """`runs/`: facts of this run that are no part of the data set."""
    manifest = result.manifest
    told = {"id": manifest.id, "runner": runner, "workers": result.workers, "engine": manifest.tokenizer.engine}
    data = orjson.dumps(told | result.facts.as_json(), option=orjson.OPT_INDENT_2)
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    result.plan.output.write(f"runs/{now}.json", data)
