"""What every format reader yields: the places and sizes of neighbouring rows, and the rows once they are asked for."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from schemas.rejects import RejectRow

Row = dict[str, Any]


class Built(NamedTuple):
    """The rows of a stretch of records that could be built, and the others by their index in the stretch."""

    rows: Sequence[Row]
    rejects: dict[int, RejectRow]


@dataclass(frozen=True, slots=True)
class Records:
    """Rows of one file, one after the other: parallel sequences. `positions` as the shard's `doc_position`; `sizes` in
    uncompressed bytes of input. `build(start, stop)` makes the rows [start, stop); for a block that is skipped it is
    never called."""

    positions: Sequence[int]
    sizes: Sequence[int]
    build: Callable[[int, int], Built]


def build_each(values: Iterable[Any], build: Callable[[Any], Row]) -> Built:
    """One row at a time. `build` makes a row of a value, or raises RejectRow."""
    rows: list[Row] = []
    rejects: dict[int, RejectRow] = {}
    for index, value in enumerate(values):
        try:
            rows.append(build(value))
        except RejectRow as reject:
            rejects[index] = reject
    return Built(rows, rejects)
