"""What must hold of a record batch before its values may be touched: Arrow believes a file's offsets and indexes, and
reads wherever they point."""

import pyarrow as pa
from pyarrow import types

TABLE_ERRORS = (pa.ArrowException, OSError, UnicodeDecodeError, MemoryError)
"""What Arrow says of a damaged file: the names of columns are decoded, and a length that lies is asked for."""


def check_structure(batch: pa.RecordBatch) -> None:
    """Raises ArrowInvalid for offsets, sizes or dictionary indexes that lead out of their buffers, UnicodeDecodeError
    for a column's name. Strings may hold any bytes: those are checked row by row."""
    batch.validate()
    for field, column in zip(batch.schema, batch.columns, strict=True):
        column.view(_without_text(field).type).validate(full=True)


def _without_text(field: pa.Field) -> pa.Field:
    """The field with bytes in the place of text, so that its values count as sound whatever their encoding. Made anew,
    so that all names are decoded."""
    return pa.field(field.name, _bytes_for_text(field.type), field.nullable)


def _bytes_for_text(kind: pa.DataType) -> pa.DataType:
    if types.is_string(kind):
        return pa.binary()
    if types.is_large_string(kind):
        return pa.large_binary()
    if types.is_struct(kind):
        return pa.struct(list(map(_without_text, kind)))
    if types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, _bytes_for_text(kind.value_type), kind.ordered)
    if types.is_list(kind):
        return pa.list_(_without_text(kind.value_field))
    if types.is_large_list(kind):
        return pa.large_list(_without_text(kind.value_field))
    if types.is_fixed_size_list(kind):
        return pa.list_(_without_text(kind.value_field), kind.list_size)
    return kind
