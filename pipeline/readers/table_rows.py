"""Rows that stay Arrow batches until they are asked for."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from itertools import accumulate, islice, pairwise
from typing import overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.readers.plain_values import GROUP, build_rows, doubtful_columns, find_rejects
from pipeline.readers.records import Built, Records, Row
from pipeline.readers.table_columns import (
    PlainColumn,
    are_empty,
    decoded_bytes,
    join_columns,
    plain_column,
    text_column,
)
from schemas.rejects import Reason, RejectRow

_ROWS = 2**13
"""Rows of a batch that are handed on together."""


class TableRows(Sequence[Row]):
    """The rows of record batches, each of which can be built. The batches need not have the same schema."""

    def __init__(self, batches: Iterable[pa.RecordBatch]) -> None:
        self.batches = [batch for batch in batches if batch.num_rows]
        self._ends = list(accumulate(batch.num_rows for batch in self.batches))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        """One row is made by itself; those of a slice, which has no step, together."""
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(self))
            return list(islice(self._from(start, GROUP), max(stop - start, 0)))
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return next(self._from(index % len(self), 1))

    def __iter__(self) -> Iterator[Row]:
        return self._from(0, GROUP)

    def _from(self, index: int, group: int) -> Iterator[Row]:
        """The rows from one on, `group` of them made together."""
        first = bisect_right(self._ends, index)
        for batch, end in zip(self.batches[first:], self._ends[first:], strict=True):
            start = max(index - (end - batch.num_rows), 0)
            for begin in range(start, batch.num_rows, group):
                rows = build_rows(batch.slice(begin, group))
                assert rows is not None, "rows that cannot be built were left out"
                yield from rows

    def messages(self, column: str, role_key: str, content_key: str) -> PlainColumn | None:
        """The plain chats in a column of message lists; None where a batch has no such column."""
        found = [plain_column(batch, column, role_key, content_key) for batch in self.batches]
        parts = [part for part in found if part is not None]
        return join_columns(parts) if parts and len(parts) == len(found) else None

    def text(self, column: str) -> pa.LargeStringArray | None:
        """[R] with nulls; None where a batch has no such column of strings."""
        found = [text_column(batch, column) for batch in self.batches]
        return None if not found or None in found else pa.concat_arrays(found)

    def empty(self, column: str, *, lists: bool = True) -> npt.NDArray[np.bool_]:
        """bool[R]: rows that lack a column, or have null, an empty text or (with `lists`) an empty list in it."""
        empty = (are_empty(batch, column, lists=lists) for batch in self.batches)
        return np.concatenate([np.zeros(0, np.bool_), *empty])


class _Batch:
    """A record batch, of which rows are asked for in stretches."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._batch = batch

    @cached_property
    def _doubtful(self) -> list[int]:
        return doubtful_columns(self._batch)

    def build(self, first: int, start: int, stop: int) -> Built:
        """The rows [first + start, first + stop)."""
        part = self._batch.slice(first + start, stop - start)
        rejects = find_rejects(part, self._doubtful)
        cuts = pairwise([-1, *rejects, part.num_rows])
        return Built(TableRows(part.slice(before + 1, after - before - 1) for before, after in cuts), rejects)


def batch_records(batch: pa.RecordBatch, position: int, max_row_bytes: int) -> Iterator[Records]:
    """The rows of a batch, each with the same share of its bytes; where that is above the limit they are rejects.
    `position` is the row number of its first in the file."""
    row_bytes = max(decoded_bytes(batch) // max(batch.num_rows, 1), 1)
    build = partial(_reject_long, row_bytes) if row_bytes > max_row_bytes else _Batch(batch).build
    for first in range(0, batch.num_rows, _ROWS):
        rows = min(_ROWS, batch.num_rows - first)
        places = range(position + first, position + first + rows)
        yield Records(places, [row_bytes] * rows, partial(build, first))


def _reject_long(row_bytes: int, first: int, start: int, stop: int) -> Built:
    reject = RejectRow(Reason.LINE_TOO_LONG, f"a row of about {row_bytes} bytes, more than max_line_bytes")
    return Built(TableRows([]), dict.fromkeys(range(stop - start), reject))
