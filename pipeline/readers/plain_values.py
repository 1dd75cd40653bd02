"""Arrow values as JSON would have them, and which of them have no such form."""

from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pyarrow as pa
from pyarrow import types

from pipeline.readers.records import Row
from schemas.rejects import Reason, RejectRow

GROUP = 256
"""Rows that become Python objects at a time."""

_SCALARS: tuple[Callable[[pa.DataType], bool], ...] = (
    *(types.is_string, types.is_large_string, types.is_boolean, types.is_null),
    *(types.is_integer, types.is_float32, types.is_float64),
)


def build_rows(batch: pa.RecordBatch) -> list[Row] | None:
    """All rows of a batch; None where a value has no Python form. Raises RejectRow for one without a JSON form."""
    try:
        rows: list[Row] = batch.to_pylist()
    except (ValueError, OverflowError):
        return None
    converted = [field.name for field in batch.schema if not is_plain(field.type)]
    for row in rows if converted else ():
        row.update({name: _plain(row[name]) for name in converted})
    return rows


def build_row(batch: pa.RecordBatch, index: int) -> Row:
    """Raises RejectRow."""
    try:
        row: Row = batch.slice(index, 1).to_pylist()[0]
    except UnicodeDecodeError as error:
        raise RejectRow(Reason.INVALID_UTF8, f"a string is not UTF-8: {error.reason}") from None
    except (ValueError, OverflowError):
        raise RejectRow(Reason.WRONG_TYPE, "a value has no Python form, such as a date out of range") from None
    return {name: _plain(value) for name, value in row.items()}


def find_rejects(batch: pa.RecordBatch, doubtful: list[int]) -> dict[int, RejectRow]:
    """The rows that cannot be built, by their index; only values of the `doubtful` columns may be to blame."""
    rejects = {}
    columns = batch.select(doubtful)
    for begin in range(0, batch.num_rows, GROUP) if doubtful else ():
        group = columns.slice(begin, GROUP)
        if _can_be_built(group):
            continue
        for index in range(begin, begin + group.num_rows):
            try:
                build_row(batch, index)
            except RejectRow as reject:
                rejects[index] = reject
    return rejects


def _can_be_built(batch: pa.RecordBatch) -> bool:
    try:
        return build_rows(batch) is not None
    except RejectRow:
        return False


def doubtful_columns(batch: pa.RecordBatch) -> list[int]:
    """The columns whose values have to be looked at one by one: of types that are not JSON's, or with broken UTF-8."""
    return [index for index, column in enumerate(batch.columns) if not (is_plain(column.type) and _is_sound(column))]


def _is_sound(column: pa.Array) -> bool:
    try:
        column.validate(full=True)  # UTF-8 among other things
    except pa.ArrowInvalid:
        return False
    return True


def is_plain(kind: pa.DataType) -> bool:
    """Whether all values of a type are JSON's own once they are Python objects."""
    if types.is_struct(kind):
        fields = list(kind)
        return len({field.name for field in fields}) == len(fields) and all(is_plain(field.type) for field in fields)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind) or types.is_dictionary(kind):
        return is_plain(kind.value_type)
    return any(is_of_kind(kind) for is_of_kind in _SCALARS)


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
