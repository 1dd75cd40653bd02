"""Progress of a run, drawn from the output's `state/`: runners have no way out for it."""

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pipeline.block_info import BlockState, unit_sha256
from pipeline.build_plan import BuildPlan
from pipeline.file_sizes import REQUESTS
from pipeline.run_facts import RunFacts

NEAR_SECONDS, FAR_SECONDS = 0.3, 10.0
"""Between two looks at a disk, and at a store, where each look is a request for every thousand files."""

SHARE = 10
"""A look that takes long, as a listing of many files does, is followed by so many times its time without one."""

LEAVE_SECONDS = 1.0
"""So long a run that failed or was interrupted waits for a look that is under way."""

AT_ONCE = 2_000
"""States that one look reads at most: those of a build that was nearly done before are many."""


@dataclass
class Seen:
    """What the finished blocks add up to."""

    units: int = 0
    blocks: int = 0
    rows: int = 0
    tokens: int = 0
    input_bytes: int = 0

    def __str__(self) -> str:
        return f"{self.blocks} blocks, {self.rows:,} rows, {self.tokens:,} tokens, {self.input_bytes / 1e6:,.1f} MB"


class StateReader:
    """Adds up the states of finished blocks, reading each of them once, and the facts of the run."""

    def __init__(self, plan: BuildPlan, facts: RunFacts | None = None) -> None:
        self._plan = plan
        self._facts = facts
        self._units = {unit.index: unit_sha256(unit) for unit in plan.units}
        self._read: set[str] = set()
        self.seen = Seen()
        self.is_near = plan.output.is_local

    def look(self, most: int | None = None) -> Seen:
        """Read those states that are new, or as many of them."""
        names = [name for name in self._plan.state.names() if name.endswith(".json") and name not in self._read]
        for name, state in self._states(names[:most]):
            if state is not None:
                self._read.add(name)
                if self._units.get(state.info.unit) == state.info.unit_sha256:
                    self._add(state)
        return self.seen

    def _states(self, names: Sequence[str]) -> Iterator[tuple[str, BlockState | None]]:
        store = self._plan.state
        if self.is_near:
            yield from ((name, store.read(name)) for name in names)
            return
        with ThreadPoolExecutor(REQUESTS) as pool:
            yield from zip(names, pool.map(store.read, names), strict=True)

    def _add(self, state: BlockState) -> None:
        info = state.info
        self.seen.units += info.last
        self.seen.blocks += 1
        self.seen.rows += sum(info.rows.values())
        self.seen.tokens += sum(file.tokens for file in (info.shard, info.holdout) if file)
        self.seen.input_bytes += info.input_bytes
        if self._facts is not None:
            self._facts.add(state)

    def looks(self, stop: threading.Event, shortest: float) -> Iterator[Seen]:
        """Look again and again until it is stopped, with pauses of `shortest` seconds at least. Where the store fails,
        the run itself says so."""
        pause = shortest
        while not stop.wait(pause):
            begun = time.monotonic()
            with contextlib.suppress(OSError):
                self.look(AT_ONCE)
            pause = max(shortest, SHARE * (time.monotonic() - begun))
            yield self.seen


@contextmanager
def shown_progress(plan: BuildPlan, console: Console, facts: RunFacts) -> Iterator[None]:
    """A bar on a terminal; elsewhere a plain line every ten seconds in which something happened. At the end `facts` has
    all blocks of the run."""
    reader = StateReader(plan, facts)
    stop = threading.Event()
    show = _show_bar if console.is_terminal else _print_lines
    thread = threading.Thread(target=show, args=(reader, len(plan.units), console, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(LEAVE_SECONDS)
    thread.join()
    reader.look()


def _show_bar(reader: StateReader, units: int, console: Console, stop: threading.Event) -> None:
    columns = (
        TextColumn("building"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("units  {task.fields[seen]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("building", total=units, seen="starting")
        for seen in reader.looks(stop, NEAR_SECONDS if reader.is_near else FAR_SECONDS):
            progress.update(task, completed=seen.units, seen=str(seen))


def _print_lines(reader: StateReader, units: int, console: Console, stop: threading.Event) -> None:
    printed = 0
    for seen in reader.looks(stop, FAR_SECONDS):
        if seen.blocks != printed:
            console.print(f"{seen.units} of {units} units: {seen}", highlight=False)
            printed = seen.blocks
