"""Strings that remember where each of their characters came from.

A leaf of the row (a string, a dict key, a number) enters the template as `Traced`, and every way in which a
template makes a string keeps the origin of each character. Text without an origin is the template's own.

    Traced("Hi there", (Run(8, Origin(1, Field.BODY)),))

A string holds at least one run; an empty field leaves a run of length 0, its place.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum
from typing import Any, NamedTuple, SupportsIndex, TypeAlias


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


def concat(parts: Iterable[Any]) -> "Traced":
    """Join strings end to end; neighbouring runs of one origin become one."""
    texts: list[str] = []
    runs: list[Run] = []
    for part in parts:
        texts.append(part)
        for run in runs_of(part):
            if runs and runs[-1].origin == run.origin and run.origin not in (GENERATION_START, GENERATION_END):
                runs[-1] = Run(runs[-1].length + run.length, run.origin)
            elif run.length or run.origin is not None:
                runs.append(run)
    return Traced("".join(texts), tuple(runs) or (Run(0, None),))


def first_origin(value: Any) -> Origin | None:
    """The first origin found in a value, looking into containers; None where all is the template's."""
    if isinstance(value, Traced | TracedInt | TracedFloat):
        return next((run.origin for run in runs_of(value.traced()) if run.origin is not None), None)
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        return next((origin for origin in map(first_origin, value) if origin is not None), None)
    return None


def as_row_text(text: str, origin: Origin) -> "Traced":
    return Traced(text, (Run(len(text), origin),))


class Traced(str):
    """A string with the runs of its characters' origins."""

    __slots__ = ("runs",)
    runs: Runs

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

    def _cut(self, start: int, stop: int) -> "Traced":
        return Traced(str.__getitem__(self, slice(start, stop)), slice_runs(self.runs, start, stop))

    def _same_runs(self, text: str) -> "Traced":
        """A change of letters that keeps their number; else one run, as a letter's place is then not known."""
        if len(text) == len(self):
            return Traced(text, self.runs)
        return Traced(text, (Run(len(text), first_origin(self)),))

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
            return (
                self._cut(start, max(start, stop)) if step == 1 else concat(self[i] for i in range(start, stop, step))
            )
        index = range(len(self))[key]
        return self._cut(index, index + 1)

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
        position = 0
        for match in re.finditer(re.escape(old), self.plain):
            if len(parts) // 2 == count:
                break
            parts += [self._cut(position, match.start()), new]
            position = match.end()
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
        return concat((self, fill * (int(width) - len(self))))

    def rjust(self, width: SupportsIndex, fill: str = " ", /) -> "Traced":
        return concat((fill * (int(width) - len(self)), self))

    def center(self, width: SupportsIndex, fill: str = " ", /) -> "Traced":
        missing = max(int(width) - len(self), 0)
        left = missing // 2 + (missing & int(width) & 1)  # as CPython shares out an odd number
        return concat((fill * left, self, fill * (missing - left)))


class TracedInt(int):
    """A number of the row."""

    origin: Origin

    def __new__(cls, value: int, origin: Origin) -> "TracedInt":
        made = super().__new__(cls, value)
        made.origin = origin
        return made

    def traced(self) -> Traced:
        return as_row_text(int.__repr__(self), self.origin)

    def __str__(self) -> Traced:
        return self.traced()


class TracedFloat(float):
    """A number of the row."""

    origin: Origin

    def __new__(cls, value: float, origin: Origin) -> "TracedFloat":
        made = super().__new__(cls, value)
        made.origin = origin
        return made

    def traced(self) -> Traced:
        return as_row_text(float.__repr__(self), self.origin)

    def __str__(self) -> Traced:
        return self.traced()


def trace(value: Any, origin: Origin) -> Any:
    """A JSON-like value whose strings, keys and numbers remember `origin`; booleans and null stay as they are."""
    if isinstance(value, str):
        return as_row_text(value, origin)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return TracedInt(value, origin)
    if isinstance(value, float):
        return TracedFloat(value, origin)
    if isinstance(value, Mapping):
        return {trace(key, origin): trace(item, origin) for key, item in value.items()}
    assert isinstance(value, list | tuple), type(value)
    return [trace(item, origin) for item in value]
