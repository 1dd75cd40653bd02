"""Rows of tables, made when they are asked for, and columns of them, against loops over single rows."""

from datetime import datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.readers import plain_values, table_rows
from pipeline.readers.plain_values import build_row
from pipeline.readers.table_columns import decoded_bytes
from pipeline.readers.table_rows import TableRows, batch_records
from schemas.rejects import Reason, RejectRow

TEXTS = st.none() | st.sampled_from(["", "a", "\u00e9t\u00e9", "long " * 9])
BYTES = st.none() | st.sampled_from([b"", b"a", b"\xff", b"\xc3", "\u00e9".encode()])
PLAIN_TYPES = {
    "text": (pa.string(), TEXTS),
    "large": (pa.large_string(), TEXTS),
    "whole": (pa.int64(), st.none() | st.integers(-5, 5)),
    "number": (pa.float64(), st.none() | st.floats(-1, 1)),
    "lists": (pa.list_(pa.string()), st.none() | st.lists(TEXTS, max_size=3)),
    "struct": (
        pa.struct({"x": pa.int8(), "y": pa.list_(pa.string())}),
        st.none() | st.fixed_dictionaries({"x": st.integers(0, 9), "y": st.lists(TEXTS, max_size=2)}),
    ),
    "names": (pa.dictionary(pa.int8(), pa.string()), TEXTS),
}
OTHER_TYPES = {
    "raw": (pa.binary(), BYTES),
    "when": (pa.timestamp("s"), st.none() | st.sampled_from([0, 10**18, 5])),
    "price": (pa.decimal128(9, 2), st.none() | st.just(Decimal("1.50"))),
    "half": (pa.float16(), st.none() | st.just(np.float16(1.5))),
    "raws": (pa.list_(pa.binary()), st.none() | st.lists(BYTES, max_size=2)),
}
TYPES = PLAIN_TYPES | OTHER_TYPES


@st.composite
def batches(draw: st.DrawFn) -> pa.RecordBatch:
    rows = draw(st.integers(1, 12))
    columns = {}
    for name in draw(st.lists(st.sampled_from([*TYPES, "broken"]), unique=True, min_size=1)):
        if name == "broken":  # strings whose bytes are not UTF-8
            values = draw(st.lists(BYTES, min_size=rows, max_size=rows))
            columns[name] = pa.array(values, pa.binary()).view(pa.string())
            continue
        kind, strategy = TYPES[name]
        values = draw(st.lists(strategy, min_size=rows, max_size=rows))
        columns[name] = pa.array(values, pa.int64()).view(kind) if name == "when" else pa.array(values, kind)
    batch = pa.record_batch(columns)
    return batch.slice(draw(st.integers(0, rows - 1)))


def slow_rows(batch: pa.RecordBatch) -> tuple[list[dict[str, Any]], dict[int, tuple[Reason, str]]]:
    """Each row by itself."""
    rows, rejects = [], {}
    for index in range(batch.num_rows):
        try:
            rows.append(build_row(batch, index))
        except RejectRow as reject:
            rejects[index] = (reject.reason, reject.detail)
    return rows, rejects


def built(batch: pa.RecordBatch) -> tuple[TableRows, dict[int, tuple[Reason, str]]]:
    tables: list[pa.RecordBatch] = []
    rejects = {}
    at = 0
    for records in batch_records(batch, 100, 2**20):
        found = records.build(0, len(records.sizes))
        assert list(records.positions) == list(range(100 + at, 100 + at + len(records.sizes)))
        assert set(records.sizes) == {max(decoded_bytes(batch) // batch.num_rows, 1)}
        assert isinstance(found.rows, TableRows)
        tables += found.rows.batches
        rejects |= {at + index: (reject.reason, reject.detail) for index, reject in found.rejects.items()}
        at += len(records.sizes)
    return TableRows(tables), rejects


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_rows, "_ROWS", 5)
    monkeypatch.setattr(table_rows, "GROUP", 2)
    monkeypatch.setattr(plain_values, "GROUP", 2)


@settings(max_examples=400)
@given(batches(), st.data())
def test_rows_and_rejects_are_those_of_single_rows(batch: pa.RecordBatch, data: st.DataObject) -> None:
    rows, rejects = built(batch)
    expected, slow_rejects = slow_rows(batch)
    assert repr(list(rows)) == repr(expected)
    assert rejects == slow_rejects
    assert len(rows) == len(expected)
    if expected:
        index = data.draw(st.integers(-len(expected), len(expected) - 1))
        assert repr(rows[index]) == repr(expected[index])
    start, stop = data.draw(st.integers(-3, 14)), data.draw(st.none() | st.integers(-3, 14))
    assert repr(rows[start:stop]) == repr(expected[start:stop])


def test_a_row_beyond_the_last_is_an_index_error() -> None:
    rows = TableRows([pa.record_batch({"a": [1, 2]})])
    with pytest.raises(IndexError):
        rows[2]
    with pytest.raises(IndexError):
        rows[-3]
    assert list(reversed(rows)) == [{"a": 2}, {"a": 1}]


def test_columns_of_one_name_are_the_last_of_them() -> None:
    batch = pa.RecordBatch.from_arrays([pa.array([b"\xff", b"b"]), pa.array(["x", "y"])], ["a", "a"])
    rows, rejects = built(batch)
    assert (list(rows), rejects) == ([{"a": "x"}, {"a": "y"}], {})
    assert rows.text("a") is None


MESSAGE = pa.struct(
    {
        "role": pa.string(),
        "content": pa.string(),
        "name": pa.string(),
        "weight": pa.float64(),
        "tool_calls": pa.list_(pa.string()),
        "images": pa.list_(pa.string()),
    }
)
MESSAGES = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "user", "assistant", "system", "tool", None]),
        "content": st.sampled_from(["a", "", "\u00e9", "long " * 9, None]),
        "name": st.sampled_from([None] * 9 + ["", "n"]),
        "weight": st.sampled_from([None] * 9 + [0.0]),
        "tool_calls": st.sampled_from([None] * 5 + [[]] * 4 + [["c"]]),
        "images": st.sampled_from([None] * 9 + [[]]),
    }
)
CHATS = st.none() | st.lists(MESSAGES | st.sampled_from([None, *[{"role": "user", "content": "x"}] * 5]), max_size=4)


def is_regular(messages: list[dict[str, Any] | None] | None) -> bool:
    return bool(messages) and all(
        message is not None
        and message["role"] is not None
        and message["content"] is not None
        and not message["tool_calls"]
        and all(message[name] is None for name in ("name", "weight", "images"))
        for message in messages or ()
    )


@settings(max_examples=300)
@given(st.lists(st.lists(CHATS, min_size=1, max_size=6), min_size=1, max_size=3), st.integers(0, 2), st.booleans())
def test_plain_chats_are_those_of_a_loop(parts: list[list[Any]], skipped: int, large: bool) -> None:
    kind = pa.large_list(MESSAGE) if large else pa.list_(MESSAGE)
    made = [pa.record_batch({"chat": pa.array(part, kind)}).slice(skipped) for part in parts]
    rows = TableRows(made)
    chats = [row["chat"] for row in rows]
    column = rows.messages("chat", "role", "content")
    if not chats:
        assert column is None
        return
    assert column is not None
    assert column.sizes.tolist() == [len(chat or ()) for chat in chats]
    messages = [message or {} for chat in chats for message in chat or ()]
    names = [*column.names, None]
    assert [names[code] for code in column.roles] == [message.get("role") for message in messages]
    assert column.texts.type == pa.large_string()
    assert column.texts.to_pylist() == [message.get("content") for message in messages]
    assert column.regular.tolist() == [is_regular(chat) for chat in chats]
    assert (column.sizes.dtype, column.roles.dtype, column.regular.dtype) == (np.int64, np.int32, np.bool_)


@pytest.mark.parametrize(
    "chats",
    [
        pa.array([[{"role": "user"}]]),
        pa.array([[{"role": "user", "content": ["a"]}]]),
        pa.array([["a"]]),
        pa.array(["a"]),
        pa.array([[{"role": 1, "content": "a"}]]),
    ],
)
def test_other_columns_have_no_plain_chats(chats: pa.Array) -> None:
    rows = TableRows([pa.record_batch({"chat": chats})])
    assert rows.messages("chat", "role", "content") is None
    assert rows.messages("other", "role", "content") is None


def test_texts_and_empty_columns() -> None:
    first = pa.record_batch({"t": pa.array(["a", None, ""]), "n": [1, None, 0], "l": pa.array([[], None, ["x"]])})
    second = pa.record_batch({"t": pa.array(["\u00e9", "b"], pa.large_string()), "n": [None, 2]})
    rows = TableRows([first.slice(1), second])
    texts = rows.text("t")
    assert texts is not None
    assert (texts.type, texts.to_pylist()) == (pa.large_string(), [None, "", "\u00e9", "b"])
    assert rows.text("n") is None
    assert rows.text("l") is None
    assert rows.empty("t").tolist() == [True, True, False, False]
    assert rows.empty("n").tolist() == [True, False, True, False]
    assert rows.empty("l").tolist() == [True, False, True, True]
    assert rows.empty("other").all()
    assert TableRows([]).empty("t").shape == (0,)


def test_nothing_is_made_before_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def count(batch: pa.RecordBatch) -> list[dict[str, Any]]:
        made.append(batch.num_rows)
        rows: list[dict[str, Any]] = batch.to_pylist()
        return rows

    monkeypatch.setattr(table_rows, "build_rows", count)
    rows, _ = built(pa.record_batch({"t": ["a"] * 9, "when": pa.array([datetime(2024, 1, 1)] * 9)}))
    assert made == []
    assert rows[4]["t"] == "a"
    assert made == [1]
    assert len(list(rows)) == 9
    assert made == [1, 2, 2, 1, 2, 2]
