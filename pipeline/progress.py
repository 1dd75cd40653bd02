"""Progress of a run, drawn from the output's `state/`: runners have no way out for it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pipeline.block_info import BlockState, unit_sha256
from pipeline.build_plan import BuildPlan
from pipeline.run_facts import RunFacts


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

    def look(self) -> Seen:
        store = self._plan.state
        for name in store.names():
            if name.endswith(".json") and name not in self._read and (state := store.read(name)) is not None:
                self._read.add(name)
                if self._units.get(state.info.unit) == state.info.unit_sha256:
                    self._add(state)
        return self.seen

    def _add(self, state: BlockState) -> None:
        info = state.info
        self.seen.units += info.last
        self.seen.blocks += 1
        self.seen.rows += sum(info.rows.values())
        self.seen.tokens += sum(file.tokens for file in (info.shard, info.holdout) if file)
        self.seen.input_bytes += info.input_bytes
        if self._facts is not None:
            self._facts.add(state)


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
        while not stop.wait(0.3):
            seen = reader.look()
            progress.update(task, completed=seen.units, seen=str(seen))


def _print_lines(reader: StateReader, units: int, console: Console, stop: threading.Event) -> None:
    printed = 0
    while not stop.wait(10):
        seen = reader.look()
        if seen.blocks != printed:
            console.print(f"{seen.units} of {units} units: {seen}", highlight=False)
            printed = seen.blocks
