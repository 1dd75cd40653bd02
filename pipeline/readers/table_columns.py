"""Columns of record batches as flat arrays, without a Python object for each row."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

_TEXTS = (pa.string(), pa.large_string())


@dataclass(frozen=True, slots=True)
class PlainColumn:
    """The message lists of R rows, their M messages end to end, those of rows that are not `regular` too.

    A row is regular where it has messages, and each of them a role and a content and nothing else: null in all other
    fields, or no tool calls in an empty list.
    """

    sizes: npt.NDArray[np.int64]  # [R] messages of each row
    roles: npt.NDArray[np.int32]  # [M] into `names`, -1 for null
    names: list[str]
    texts: pa.LargeStringArray  # [M] null where a message has no content
    regular: npt.NDArray[np.bool_]  # [R]


def plain_column(batch: pa.RecordBatch, column: str, role_key: str, content_key: str) -> PlainColumn | None:
    """None where the batch has no list of structs of that name with strings under both keys."""
    lists = _column(batch, column)
    if lists is None or not (types.is_list(lists.type) or types.is_large_list(lists.type)):
        return None
    kind = lists.type.value_type
    if not types.is_struct(kind) or not all(_is_text(kind, name) for name in (role_key, content_key)):
        return None
    messages = lists.flatten()  # without what a null list may hide
    fields = dict(zip([field.name for field in kind], messages.flatten(), strict=True))  # null where a message is
    roles, texts = fields.pop(role_key), fields.pop(content_key)
    is_plain = _valid(roles) & _valid(texts)
    for name, values in fields.items():
        is_plain &= _is_empty_list(values) if name in ("tool_calls", "function_call") else ~_valid(values)
    sizes = _lengths(lists)
    plain_before = np.concatenate([[0], np.cumsum(is_plain)])
    ends = np.cumsum(sizes)
    regular = (sizes > 0) & (plain_before[ends] - plain_before[ends - sizes] == sizes)
    encoded = pc.dictionary_encode(roles)
    return PlainColumn(
        sizes=sizes,
        roles=pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False),
        names=encoded.dictionary.to_pylist(),
        texts=texts.cast(pa.large_string()),
        regular=regular,
    )


def _is_text(kind: pa.StructType, name: str) -> bool:
    index = kind.get_field_index(name)  # -1 also where several have the name
    return index >= 0 and kind.field(index).type in _TEXTS


def join_columns(parts: Sequence[PlainColumn]) -> PlainColumn:
    """One column after the other."""
    codes: dict[str, int] = {}
    roles = []
    for part in parts:
        code_of = np.array([*(codes.setdefault(name, len(codes)) for name in part.names), -1], np.int32)
        roles.append(code_of[part.roles])
    return PlainColumn(
        sizes=np.concatenate([part.sizes for part in parts]),
        roles=np.concatenate(roles),
        names=list(codes),
        texts=pa.concat_arrays([part.texts for part in parts]),
        regular=np.concatenate([part.regular for part in parts]),
    )


def text_column(batch: pa.RecordBatch, column: str) -> pa.LargeStringArray | None:
    """[R] with nulls; None where the batch has no column of strings of that name."""
    values = _column(batch, column)
    return values.cast(pa.large_string()) if values is not None and values.type in _TEXTS else None


def are_empty(batch: pa.RecordBatch, column: str, *, lists: bool) -> npt.NDArray[np.bool_]:
    """bool[R]: rows that lack a column, or have null, an empty text or (with `lists`) an empty list in it."""
    if column not in batch.schema.names:
        return np.ones(batch.num_rows, np.bool_)
    values = _column(batch, column)
    if values is None:
        return np.zeros(batch.num_rows, np.bool_)
    return _is_empty_list(values) if lists or values.type in _TEXTS else ~_valid(values)


def _column(batch: pa.RecordBatch, name: str) -> pa.Array | None:
    """None also where several columns have the name."""
    index = batch.schema.get_field_index(name)
    return batch.column(index) if index >= 0 else None


def _valid(values: pa.Array) -> npt.NDArray[np.bool_]:
    """bool[n]"""
    valid: npt.NDArray[np.bool_] = values.is_valid().to_numpy(zero_copy_only=False)
    return valid


def _is_empty_list(values: pa.Array) -> npt.NDArray[np.bool_]:
    """bool[n]: null, or without items or characters."""
    if values.type in _TEXTS or types.is_list(values.type) or types.is_large_list(values.type):
        empty: npt.NDArray[np.bool_] = _lengths(values) == 0
        return empty
    return ~_valid(values)


def _lengths(values: pa.Array) -> npt.NDArray[np.int64]:
    """int64[n]: items of lists, or characters of strings; 0 for null."""
    lengths = pc.binary_length(values) if values.type in _TEXTS else pc.list_value_length(values)
    counted: npt.NDArray[np.int64] = pc.fill_null(lengths, 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return counted


def decoded_bytes(batch: pa.RecordBatch) -> int:
    """The bytes that the rows come to: a value of a dictionary counts wherever it stands."""
    return sum(map(_decoded_bytes, batch.columns))


def _decoded_bytes(values: pa.Array) -> int:
    if types.is_dictionary(values.type):
        held = values.dictionary
        if held.type in _TEXTS:
            return pc.sum(pc.binary_length(held).take(values.indices)).as_py() or 0
        return _decoded_bytes(held) * len(values) // max(len(held), 1)
    if types.is_struct(values.type):
        return sum(map(_decoded_bytes, values.flatten()))
    if types.is_list(values.type) or types.is_large_list(values.type) or types.is_fixed_size_list(values.type):
        return _decoded_bytes(values.flatten()) + 4 * len(values)
    return int(values.nbytes)
