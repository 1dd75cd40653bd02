"""`packline watch`: new files become shards as they come, in generations, each made by an ordinary run."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from rich.console import Console

from pipeline.build_plan import BuildPlan, plan_files, plan_recipe
from pipeline.config import BuildConfig, Watch
from pipeline.existing import is_whole, what_differs
from pipeline.launch import BuildResult, check_is_seen, run_plan
from pipeline.plan_again import plan_again, with_first_sources
from pipeline.readers.files import Stamp
from pipeline.readers.listing import Match, describe_file
from pipeline.run_facts import RunFacts
from pipeline.runner_choice import EMBEDDED, check_workers, choose_runner
from pipeline.watch.chain import PublishedChain
from pipeline.watch.look import Look, look_at_sources
from pipeline.watch.stop import StopRequest
from pipeline.watch.waiting import Place, Waiting, complete_files, due_files, look_again
from pipeline.worker_pool import default_workers, started_pool
from schemas.errors import ConfigError, DatasetError
from schemas.generations import load_chain
from schemas.manifest import manifest_name


def watch(
    config: BuildConfig,
    *,
    once: bool = False,
    runner: str = EMBEDDED,
    workers: int | None = None,
    beam_args: Sequence[str] = (),
    console: Console | None = None,
    debug: bool = False,
    stop: StopRequest | None = None,
) -> None:
    """Publish generations until somebody asks to stop; with `once` one at most, of what is complete.

    Raises ConfigError for a config that cannot be used, or is of another recipe than what the output folder holds; what
    `build` raises where a round fails, which then has published nothing.
    """
    watcher = Watcher(config, runner, workers, beam_args, console or Console(stderr=True, quiet=True), debug=debug)
    watcher.mend()
    repeat_rounds(config.watch, watcher.look, watcher.take, StopRequest() if stop is None else stop, once=once)


def repeat_rounds(
    settings: Watch,
    look: Callable[[], Look],
    take: Callable[[Mapping[Place, Match]], None],
    stop: StopRequest,
    *,
    once: bool,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Look at the files that are not taken, again and again, and take those that are due."""
    waiting: dict[Place, Waiting] = {}
    looks_left = 1 if settings.marker else 2  # with `once`
    while not stop:
        seen, now = look(), clock()
        waiting = look_again(waiting, seen.stamps, seen.marked, now)
        looks_left -= 1
        places = complete_files(waiting) if once else due_files(waiting, settings, now)
        if places:
            take({place: seen.files[place] for place in places})
        if once and not looks_left:
            return
        stop.wait(settings.interval)


class Watcher:
    """The two halves of a round, over a folder and under one recipe, which is read once."""

    def __init__(
        self,
        config: BuildConfig,
        runner: str,
        workers: int | None,
        beam_args: Sequence[str],
        console: Console,
        *,
        debug: bool,
    ) -> None:
        """Raises ConfigError, also where the folder holds a data set of another recipe."""
        runner = choose_runner(runner)
        check_workers(runner, workers)
        _refuse_limits(config)
        plan = plan_recipe(config)
        self._runner, self._workers, self._beam_args, self._debug = runner, workers, beam_args, debug
        self._console = console
        for warning in plan.warnings:
            self._warn(warning)
        self._plan = replace(plan, warnings=())
        self._chain = PublishedChain(plan.output)
        self._told: set[tuple[Place, Stamp]] = set()
        self._read_on()
        last = self._chain.last
        held = f"generation {last.manifest.generation}, {len(self._chain.taken)} file(s)" if last else "nothing yet"
        self._say(f"watching {len(config.sources)} source(s); {plan.output.shown} holds {held}")

    def mend(self) -> None:
        """Make again what is missing of the generations that are published. Raises SourceChanged where a file that it
        would be made of is gone or has changed."""
        if self._chain.last is None:
            return
        for manifest, first_source in with_first_sources(load_chain(self._plan.output)):
            if not is_whole(self._plan.output, manifest):
                self._warn(
                    f"files of {manifest_name(manifest.generation)} are missing or cut short; they are made again"
                )
                self._run(plan_again(self._plan, manifest, first_source))

    def look(self) -> Look:
        """The files that no generation has. A taken one that is no longer what it was is warned of, once."""
        self._read_on()
        taken = self._chain.taken
        seen = look_at_sources(self._plan.recipe.config, taken)
        for place, stamp in seen.stamps.items():
            if place in taken and taken[place] != stamp and (place, stamp) not in self._told:
                self._told.add((place, stamp))
                self._warn(
                    f"{place[1]} is in the data set as it was before it changed, and stays so: a file is taken once; "
                    "give what is new in a file of another name"
                )
        return Look({place: match for place, match in seen.files.items() if place not in taken}, seen.marked)

    def take(self, files: Mapping[Place, Match]) -> None:
        """Make a generation of these files. Where another process publishes it first nothing is lost: the next look
        finds what it has not taken."""
        plan = self._plan_round(files)
        try:
            self._say_published(self._run(plan))
        except DatasetError:
            self._read_on()
            if self._chain.next == plan.generation:
                raise
            self._warn(
                f"{manifest_name(plan.generation.number)} was published meanwhile by another process; the files that "
                "it has not taken go into a later generation. One watcher of a folder is enough"
            )

    def _plan_round(self, files: Mapping[Place, Match]) -> BuildPlan:
        sources = self._plan.recipe.config.sources
        described = [describe_file(setting, sources[setting], match) for (setting, _), match in files.items()]
        return plan_files(self._plan, described, self._chain.next)

    def _run(self, plan: BuildPlan) -> BuildResult:
        facts = RunFacts()
        workers = default_workers(len(plan.units)) if self._workers is None else self._workers
        check_is_seen(plan, self._runner, workers)
        with started_pool(self._runner, workers, debug=self._debug) as pool:
            if pool is not None:
                pool.prepare(plan.recipe.config)
            for warning in plan.warnings:
                self._warn(warning)
            return run_plan(plan, self._runner, workers, self._beam_args, pool, self._console, facts, debug=self._debug)

    def _read_on(self) -> None:
        self._chain.read_on()
        last = self._chain.last
        if last is not None and last.manifest.recipe_id != self._plan.recipe.id:
            raise ConfigError(
                f"{self._plan.output.shown} holds {what_differs(self._plan, last.manifest)}: give another folder with "
                "--set output=..., or the config that it was begun with"
            )

    def _say_published(self, result: BuildResult) -> None:
        manifest, facts = result.manifest, result.facts
        totals = manifest.totals
        seconds = (facts.published - facts.build_start).total_seconds() if facts.published else 0.0
        self._say(
            f"generation {manifest.generation}: {len(manifest.sources)} file(s), {totals.rows:,} rows, "
            f"{totals.rejects:,} rejects, {totals.tokens:,} tokens in {len(manifest.shards)} shard(s) ({seconds:.1f} s)"
        )

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _warn(self, text: str) -> None:
        self._say(f"warning: {text}")


def _refuse_limits(config: BuildConfig) -> None:
    for setting, source in enumerate(config.sources):
        if source.limit is not None:
            raise ConfigError(f"sources.{setting}.limit: a watch goes on for ever; leave it out, or use packline build")
