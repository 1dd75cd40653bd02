"""Arrow record batches to rows of plain JSON-like values."""

from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import cached_property, partial
from typing import Any
from uuid import UUID

import pyarrow as pa

from pipeline.readers.record import Record
from schemas.rejects import Reason, RejectRow

BATCH_ROWS = 256
"""Rows that become Python objects at a time."""


def batch_records(batch: pa.RecordBatch, first: int, row_bytes: int) -> Iterator[Record]:
    """The rows of a batch; `first` is the row number of its first in the file."""
    for begin in range(0, batch.num_rows, BATCH_ROWS):
        rows = _Rows(batch.slice(begin, BATCH_ROWS))
        for index in range(min(BATCH_ROWS, batch.num_rows - begin)):
            yield Record(first + begin + index, max(row_bytes, 1), partial(rows.build, index))


class _Rows:
    """A small batch, made Python objects when its first row is asked for."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._batch = batch

    @cached_property
    def _rows(self) -> list[dict[str, Any]] | None:
        """None where a value has no Python form: then each row is tried by itself."""
        try:
            rows: list[dict[str, Any]] = self._batch.to_pylist()
        except (ValueError, OverflowError):
            return None
        return rows

    def build(self, index: int) -> dict[str, Any]:
        row = self._build_one(index) if self._rows is None else self._rows[index]
        return {name: _plain(value) for name, value in row.items()}

    def _build_one(self, index: int) -> dict[str, Any]:
        try:
            row: dict[str, Any] = self._batch.slice(index, 1).to_pylist()[0]
        except UnicodeDecodeError as error:
            raise RejectRow(Reason.INVALID_UTF8, f"a string is not UTF-8: {error.reason}") from None
        except (ValueError, OverflowError):
            raise RejectRow(Reason.WRONG_TYPE, "a value has no Python form, such as a date out of range") from None
        return row


def _plain(value: Any) -> Any:
    """The value as JSON would have it. Raises RejectRow for bytes that are no text, and for unknown types."""
    match value:
        case None | str() | bool() | int() | float():
            return value
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case datetime() | date() | time():
            return value.isoformat()
        case Decimal() | timedelta() | UUID():
            return str(value)
        case bytes():
            return _decode(value)
    raise RejectRow(Reason.WRONG_TYPE, f"a value of type {type(value).__name__} has no JSON form")


def _decode(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise RejectRow(Reason.WRONG_TYPE, "a binary value that is not UTF-8 text") from None
