"""`packline build`: from a config to a published data set. `build(config)` is the same as a Python call."""

import contextlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import orjson
from rich.console import Console

from pipeline.build_plan import BuildPlan, plan_build, with_engine
from pipeline.config import BuildConfig, load_config
from pipeline.existing import find_published
from pipeline.failures import BlockFailure, BudgetExceeded, EnginesDiffer
from pipeline.preflight import check_first_rows
from pipeline.progress import shown_progress
from pipeline.run_facts import RunFacts
from pipeline.runner import run_beam
from pipeline.worker_pool import DEFAULT_RUNNER, WorkerPool, default_workers, started_pool
from schemas.errors import ConfigError, DatasetError
from schemas.manifest import Manifest, load_manifest
from schemas.store import Folder


@dataclass(frozen=True)
class BuildResult:
    """`built` is False where the data set was there already; then nothing was read but its manifest."""

    manifest: Manifest
    plan: BuildPlan
    built: bool
    workers: int
    facts: RunFacts


def build(
    config: BuildConfig | str | Path,
    *,
    runner: str = DEFAULT_RUNNER,
    workers: int | None = None,
    beam_args: Sequence[str] = (),
    console: Console | None = None,
    debug: bool = False,
    pool: WorkerPool | None = None,
) -> BuildResult:
    """Build the data set that a config describes, or find it built. `pool` are processes that were started before.

    Raises ConfigError for a config that cannot be used, found before Beam starts; BudgetExceeded where too many rows
    were rejected or too few turns have an end; DatasetError where the input or a block was at fault.
    """
    facts = RunFacts()
    if not isinstance(config, BuildConfig):
        config = load_config(Path(config))
    console = console or Console(stderr=True, quiet=True)
    with started_pool(runner, workers, debug=debug) if pool is None else contextlib.nullcontext(pool) as pool:
        if pool is not None:
            pool.prepare(config)
        plan = plan_build(config)
        for warning in plan.warnings:
            console.print(f"warning: {warning}", highlight=False, markup=False)
        workers = default_workers(len(plan.units)) if workers is None else workers
        published = find_published(plan)
        if published is not None:
            return BuildResult(published, plan, False, workers, facts)
        return run_plan(plan, runner, workers, beam_args, pool, console, facts, debug=debug)


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
    for warning in (*engine.warnings, *check_first_rows(plan)):
        console.print(f"warning: {warning}", highlight=False, markup=False)
    check_writable(plan.output)
    run = partial(_run, runner, workers, beam_args, pool if workers > 1 else None, console, facts, debug=debug)
    try:
        run(plan)
    except EnginesDiffer as error:
        plan = _without_fast_engine(plan, error, console)
        run(plan)
    facts.published = plan.state.published()
    result = BuildResult(load_manifest(plan.output, plan.generation.number), plan, True, workers, facts)
    _write_run_facts(result, runner)
    return result


def check_writable(output: Folder) -> None:
    """Raises ConfigError where nothing can be written into the output folder."""
    probe = f"state/probe-{secrets.token_hex(8)}"
    try:
        output.write(probe, b"")
        output.remove(probe)
    except OSError as error:
        raise ConfigError(f"output: {output.shown} cannot be written: {error.strerror or error}") from error


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
