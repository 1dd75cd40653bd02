"""Strings that remember where each of their characters came from.

A leaf of the row (a string, a dict key, a number) enters the template as `Traced`, and every way in which a
template makes a string keeps the origin of each character. Text without an origin is the template's own.

    Traced("Hi there", (Run(8, Origin(1, Field.BODY)),))

A string holds at least one run; an empty field leaves a run of length 0, its place.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import IntEnum
from functools import partial
from itertools import accumulate, groupby
from typing import Any, NamedTuple, SupportsIndex, TypeAlias

from pipeline.chat.limits import CHARACTERS_A_RUN, LimitExceeded, room, spend_text


class Field(IntEnum):
    BODY = 0
    REASONING = 1
    TOOL_CALL = 2  # a call's arguments
    CALL_NAME = 3
    CALL_ID = 4
    OTHER = 5  # a name, an id, any further key of a message
    ROW = 6  # of no message: tool definitions, template arguments
    NONE = 7  # the text of a null that the template printed
    GENERATION_START = 8  # of length 0: the borders of a {% generation %} block
    GENERATION_END = 9


class Origin(NamedTuple):
    """`message` is an index, -1 for what belongs to none; `part` counts the calls of a message."""

    message: int
    field: Field
    part: int = 0

    @property
    def is_row_text(self) -> bool:
        return self.field <= Field.ROW


PRINTED_NONE = Origin(-1, Field.NONE)
GENERATION_START = Origin(-1, Field.GENERATION_START)
GENERATION_END = Origin(-1, Field.GENERATION_END)


class Run(NamedTuple):
    length: int
    origin: Origin | None


Runs: TypeAlias = tuple[Run, ...]
make_run: Callable[[tuple[int, Origin | None]], Run] = partial(tuple.__new__, Run)
make_origin: Callable[[tuple[int, Field, int]], Origin] = partial(tuple.__new__, Origin)
"""The same from tuples, at half the cost."""


def slice_runs(runs: Runs, start: int, stop: int) -> Runs:
    """The runs of text[start:stop]; runs of length 0 at its borders stay."""
    kept: list[Run] = []
    begin = 0
    for run in runs:
        end = begin + run.length
        low, high = max(begin, start), min(end, stop)
        if low < high or (run.length == 0 and start <= begin <= stop):
            kept.append(Run(max(high - low, 0), run.origin))
        begin = end
    return tuple(kept) or (Run(0, _origin_at(runs, start)),)


def _origin_at(runs: Runs, position: int) -> Origin | None:
    end = 0
    for run in runs:
        end += run.length
        if position < end:
            return run.origin
    return runs[-1].origin


def runs_of(text: str) -> Runs:
    return text.runs if isinstance(text, Traced) else (Run(len(text), None),)


def size_of(text: str) -> int:
    """What a string counts in one that it is joined to."""
    return len(text) + CHARACTERS_A_RUN * (len(text.runs) if isinstance(text, Traced) else 1)


def concat(parts: Iterable[Any], most: int | None = None) -> "Traced":
    """Join strings end to end; neighbouring runs of one origin become one. Raises LimitExceeded for more than `most`
    characters, or more than the rendering may still make."""
    texts: list[str] = []
    runs: list[Run] = []
    size, most = 0, room() if most is None else most
    length, origin = 0, None  # of the run that is growing
    for part in parts:
        texts.append(part)
        own = part.runs if isinstance(part, Traced) else ((len(part), None),)
        size += len(part) + CHARACTERS_A_RUN * len(own)
        if size > most:
            raise LimitExceeded(f"the template makes a string of {size} characters, too many for this row")
        for more, its in own:
            if its == origin and (its is None or its not in (GENERATION_START, GENERATION_END)):
                length += more
            elif more or its is not None:
                if length or origin is not None:
                    runs.append(make_run((length, origin)))
                length, origin = more, its
    if length or origin is not None:
        runs.append(make_run((length, origin)))
    spend_text(size)
    return Traced("".join(texts), tuple(runs) or (Run(0, None),))


def as_row_text(text: str, origin: Origin) -> "Traced":
    return Traced(text, (Run(len(text), origin),))


class Traced(str):
    """A string with the runs of its characters' origins."""

    __slots__ = ("_ends", "runs")
    runs: Runs
    _ends: Sequence[int]

    def __new__(cls, text: str, runs: Runs | None = None) -> "Traced":
        made = super().__new__(cls, text)
        made.runs = (Run(len(text), None),) if runs is None else runs
        return made

    def traced(self) -> "Traced":
        return self

    @property
    def plain(self) -> str:
        """The same text as an exact `str`."""
        return str.__str__(self)

    @property
    def pieces(self) -> Iterable[str]:
        """Strings that are this one end to end, whose runs need not be joined."""
        return (self,)

    @property
    def origin(self) -> Origin | None:
        """The first that there is; None where all is the template's."""
        return next((run.origin for run in self.runs if run.origin is not None), None)

    def _cut(self, start: int, stop: int) -> "Traced":
        if stop - start == len(self):
            return self
        runs, begin = self.runs, 0
        if len(runs) == 1:
            return Traced(str.__getitem__(self, slice(start, stop)), (Run(stop - start, runs[0].origin),))
        if len(runs) > 16:
            ends = self._run_ends()
            first = bisect_left(ends, start)
            runs = runs[first : bisect_right(ends, stop) + 1]
            begin = ends[first - 1] if first else 0
        return Traced(str.__getitem__(self, slice(start, stop)), slice_runs(runs, start - begin, stop - begin))

    def _run_ends(self) -> Sequence[int]:
        try:
            return self._ends
        except AttributeError:
            self._ends = list(accumulate(run.length for run in self.runs))
            return self._ends

    def _same_runs(self, text: str) -> "Traced":
        """A change of letters that keeps their number; else one run, as a letter's place is then not known."""
        if len(text) == len(self):
            return Traced(text, self.runs)
        return Traced(text, (Run(len(text), self.origin),))

    def _locate(self, pieces: list[str], gap: int) -> list["Traced"]:
        """The pieces as cuts of this string; they follow each other at least `gap` characters apart."""
        cuts, position = [], 0
        for piece in pieces:
            start = str.find(self, piece, position)
            cuts.append(self._cut(start, start + len(piece)))
            position = start + len(piece) + gap
        return cuts

    def __str__(self) -> "Traced":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Traced, (self.plain, self.runs)

    def __add__(self, other: str) -> "Traced":
        return concat((self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: str) -> "Traced":
        return concat((other, self)) if isinstance(other, str) else NotImplemented

    def __mul__(self, times: SupportsIndex) -> "Traced":
        return concat([self] * int(times))

    __rmul__ = __mul__

    def __iter__(self) -> Iterator["Traced"]:
        position = 0
        for run in self.runs:
            for _ in range(run.length):
                yield Traced(str.__getitem__(self, position), (Run(1, run.origin),))
                position += 1

    def __getitem__(self, key: SupportsIndex | slice) -> "Traced":
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            return self._cut(start, max(start, stop)) if step == 1 else self._steps(key)
        index = range(len(self))[key]
        return self._cut(index, index + 1)

    def _steps(self, key: slice) -> "Traced":
        origins = [run.origin for run in self.runs for _ in range(run.length)][key]
        runs = tuple(Run(len(list(same)), origin) for origin, same in groupby(origins))
        return Traced(str.__getitem__(self, key), runs or (Run(0, self.origin),))

    def strip(self, chars: str | None = None, /) -> "Traced":
        return self.lstrip(chars).rstrip(chars)

    def lstrip(self, chars: str | None = None, /) -> "Traced":
        return self._cut(len(self) - len(str.lstrip(self, chars)), len(self))

    def rstrip(self, chars: str | None = None, /) -> "Traced":
        return self._cut(0, len(str.rstrip(self, chars)))

    def removeprefix(self, prefix: str, /) -> "Traced":
        return self._cut(len(prefix), len(self)) if self.startswith(prefix) else self

    def removesuffix(self, suffix: str, /) -> "Traced":
        return self._cut(0, len(self) - len(suffix)) if suffix and self.endswith(suffix) else self

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list["Traced"]:  # type: ignore[override]
        return self._locate(str.split(self, sep, maxsplit), len(sep or ""))

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list["Traced"]:  # type: ignore[override]
        return self._locate(str.rsplit(self, sep, maxsplit), len(sep or ""))

    def splitlines(self, keepends: bool = False) -> list["Traced"]:  # type: ignore[override]
        whole = self._locate(str.splitlines(self, True), 0)
        return whole if keepends else [line._cut(0, len(str.splitlines(line)[0])) for line in whole]

    def partition(self, sep: str, /) -> tuple["Traced", "Traced", "Traced"]:
        head, middle, tail = self._locate(list(str.partition(self, sep)), 0)
        return head, middle, tail

    def rpartition(self, sep: str, /) -> tuple["Traced", "Traced", "Traced"]:
        head, middle, tail = self._locate(list(str.rpartition(self, sep)), 0)
        return head, middle, tail

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> "Traced":
        parts: list[str] = []
        position = start = 0
        while len(parts) // 2 != int(count) and (found := str.find(self, old, start)) >= 0:
            parts += [self._cut(position, found), new]
            position = found + len(old)
            start = position + (not old)  # an empty string is found once between any two characters
        return concat([*parts, self._cut(position, len(self))])

    def join(self, values: Iterable[str], /) -> "Traced":
        parts: list[str] = []
        for value in values:
            parts += [self, value] if parts else [value]
        return concat(parts)

    def upper(self) -> "Traced":
        return self._same_runs(str.upper(self))

    def lower(self) -> "Traced":
        return self._same_runs(str.lower(self))

    def capitalize(self) -> "Traced":
        return self._same_runs(str.capitalize(self))

    def title(self) -> "Traced":
        return self._same_runs(str.title(self))

    def ljust(self, width: SupportsIndex, fill: str = " ", /) -> "Traced":
        return concat((self, _padding(fill, int(width) - len(self))))

    def rjust(self, width: SupportsIndex, fill: str = " ", /) -> "Traced":
        return concat((_padding(fill, int(width) - len(self)), self))

    def center(self, width: SupportsIndex, fill: str = " ", /) -> "Traced":
        missing = max(int(width) - len(self), 0)
        left = missing // 2 + (missing & int(width) & 1)  # as CPython shares out an odd number
        return concat((_padding(fill, left), self, _padding(fill, missing - left)))


def _padding(fill: str, count: int) -> str:
    if len(fill) != 1:
        raise TypeError(f"the fill character must be one character long, not {len(fill)}")
    return fill * count
