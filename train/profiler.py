"""A window of steps that torch's profiler records: a trace by each rank, and a table of the operations by rank 0.

A step's range runs from the end of the step before to its own end, so that the wait for its data is in it. What it is
made of is marked where it is done, by `record_function`.
"""

import gzip
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import TypeVar

from torch.profiler import ProfilerActivity, profile, record_function

from train.config import ProfileConfig
from train.parallel import World

Item = TypeVar("Item")

FOLDER = "profile"
ROWS = 50
"""Operations in the table."""


class ProfilerWindow:
    """Nothing is recorded where `steps` is empty."""

    def __init__(self, steps: range, output: Path, world: World, tell: Callable[[str], None]) -> None:
        self._steps, self._folder, self._world, self._tell = steps, output / FOLDER, world, tell
        self._profile: profile | None = None
        self._step = 0  # that is being recorded, 0 is none
        self._range = ExitStack()  # of this step

    def watch(self, items: Iterator[Item], first: int) -> Iterator[Item]:
        """The same items, of which each is the data of a step; the first is that of step `first`."""
        for step in count(first):
            self._begin(step)
            with record_function("data wait"):
                item = next(items, None)
            if item is None:
                return
            yield item

    def close(self) -> None:
        """Write what is recorded where the run stops within the window."""
        if self._profile:
            self._write(self._stop(self._profile), self._step - 1)

    def discard(self) -> None:
        if self._profile:
            self._stop(self._profile)
            self._tell("the profile is not written: the run stops with an error")

    def _begin(self, step: int) -> None:
        """The step before ends here."""
        if not self._steps or step == self._step:  # of which the data are looked for again, in new generations
            return
        self._range.close()
        if step in (self._steps.start - 1, self._steps.start):
            self._profile = self._profile or self._prepare()
        if self._profile and step == self._steps.start:
            self._profile.start_trace()
        if step in self._steps:
            self._range.enter_context(record_function(f"ProfilerStep#{step}"))  # the name that readers of traces know
            self._step = step
        elif self._profile and step == self._steps.stop:
            self._write(self._stop(self._profile), self._step)

    def _prepare(self) -> profile:
        """A step ahead where there is one: the first kernels take longer under a profiler that has just come up."""
        cuda = [ProfilerActivity.CUDA] if self._world.device.type == "cuda" else []
        prepared = profile(activities=[ProfilerActivity.CPU, *cuda])
        prepared.prepare_trace()
        return prepared

    def _stop(self, recorded: profile) -> profile:
        self._range.close()
        if not self._step:
            recorded.start_trace()  # what is only prepared cannot be stopped
        recorded.stop_trace()
        self._profile = None
        return recorded

    def _write(self, recorded: profile, last: int) -> None:
        """The steps up to `last`. A full disk costs the trace and not the run."""
        first = self._steps.start
        if last < first:
            return self._tell("the profile is not written: the run stops before the first of its steps is done")
        stem = self._folder / f"rank-{self._world.rank}-steps-{first}-{last}"
        try:
            self._folder.mkdir(exist_ok=True)
            write_trace(recorded, stem.with_suffix(".json.gz"))
            if self._world.rank == 0:
                stem.with_suffix(".txt").write_text(tabulate(recorded, self._world.device.type), encoding="utf-8")
        except OSError as error:
            print(f"rank {self._world.rank}: the profile cannot be written: {error}", file=sys.stderr, flush=True)
            return None
        return self._tell(f"profile of steps {first} to {last} in {stem}.json.gz")


@contextmanager
def open_window(
    config: ProfileConfig | None, steps: range, output: Path, world: World, tell: Callable[[str], None]
) -> Iterator[ProfilerWindow]:
    """steps: those that this start of the run has to do."""
    wanted = steps[config.start - 1 : config.start - 1 + config.steps] if config else range(0)
    if config and not wanted:
        tell(
            f"nothing will be profiled: this start has {len(steps):,} steps to do, and profile starts at {config.start}"
        )
    window = ProfilerWindow(wanted, output, world, tell)
    try:
        yield window
    except BaseException:
        window.discard()
        raise
    window.close()


def write_trace(recorded: profile, path: Path) -> None:
    """As a whole or not at all, in the format of Chrome's tracing."""
    plain, packed = path.with_name(f".{path.stem}"), path.with_name(f".{path.name}")
    recorded.export_chrome_trace(str(plain))
    with plain.open("rb") as source, gzip.open(packed, "wb", compresslevel=1) as sink:
        shutil.copyfileobj(source, sink)
    plain.unlink()
    os.replace(packed, path)


def tabulate(recorded: profile, device: str) -> str:
    """The operations that took the most time by themselves, on the device where it is not the CPU."""
    order = "self_cpu_time_total" if device == "cpu" else "self_device_time_total"
    table: str = recorded.key_averages().table(sort_by=order, row_limit=ROWS, max_name_column_width=60)
    return table
