"""Plain rows out of the columns of a table, without building a row."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa

from pipeline.convert.plain import TEXT, TURN, PlainMessages, Shape
from pipeline.readers.table_rows import TableRows


@dataclass(frozen=True, slots=True)
class PlainTable:
    """R rows; `shapes` are by row, None for one that is not plain. Row r has texts[first[r]:first[r + 1]], in UTF-8."""

    shapes: Sequence[Shape | None]
    first: Sequence[int]
    texts: Sequence[bytes]


def message_table(
    rows: TableRows, messages: PlainMessages, column: str, lists: Sequence[str | None], others: Sequence[str | None]
) -> PlainTable | None:
    """Of a column of message lists; rows with something in one of the columns `lists` and `others` are not plain, nor
    with an empty list in one of `others`. None where there is no such column."""
    found = rows.messages(column, messages.role_key, messages.content_key)
    if found is None:
        return None
    texts = _encoded(found.texts)
    first = np.concatenate([[0], np.cumsum(found.sizes)])
    filled = np.concatenate([[0], np.cumsum(np.fromiter(map(bool, texts), np.bool_, len(texts)))])
    regular = found.regular & (np.diff(filled[first]) == found.sizes)
    for name in (*lists, *others):
        if name:
            regular &= rows.empty(name, lists=name not in others)
    starts = first.tolist()
    shapes: list[Shape | None] = [None] * len(regular)
    for row in np.flatnonzero(regular).tolist():
        codes = found.roles[starts[row] : starts[row + 1]].tolist()
        shapes[row] = messages.shape(tuple([found.names[code] for code in codes]))
    return PlainTable(shapes, starts, texts)


def text_table(rows: TableRows, column: str) -> PlainTable | None:
    """Of a column of plain texts."""
    return _column_table(rows, [column], TEXT)


def turn_table(rows: TableRows, question: str, answer: str) -> PlainTable | None:
    """Of two columns with the sides of a turn."""
    return _column_table(rows, [question, answer], TURN)


def _column_table(rows: TableRows, columns: Sequence[str], shape: Shape) -> PlainTable | None:
    found = [rows.text(column) for column in columns]
    sides = [_encoded(texts) for texts in found if texts is not None]
    if len(sides) < len(columns):
        return None
    texts = [text for row in zip(*sides, strict=True) for text in row]
    shapes = [shape if all(row) else None for row in zip(*sides, strict=True)]
    return PlainTable(shapes, range(0, len(texts) + 1, len(columns)), texts)


def _encoded(texts: pa.LargeStringArray) -> list[bytes]:
    """Nulls as empty texts."""
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1].tolist()
    held = memoryview(data or b"")
    valid = texts.is_valid().to_pylist()
    return [bytes(held[start:end]) if some else b"" for some, (start, end) in zip(valid, pairwise(ends), strict=True)]
