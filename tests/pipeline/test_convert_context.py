"""What a row gives to its template beside the messages, from every format of rows: the keys in their order, no foreign
nulls."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.blocks import BlockKey, RowBlock, SourceFile, Stretch, Unit
from pipeline.config import BuildConfig, Custom, OpenAI, ShareGPT
from pipeline.convert import convert_rows, make_converter
from pipeline.readers import read_blocks
from pipeline.readers.table_rows import TableRows
from schemas.conversation import Conversation
from schemas.errors import ConfigError
from schemas.rejects import Reason, RejectRow

TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
ODD = {"zeta": 1, "alpha": {"10": "x", "9": [{"b": 1, "a": 2}], "": 0}, "Z": 1.0, "\u00e9": "\u00e9", "beta": True}
TOOLS = [{"function": {"parameters": ODD, "name": "f", "description": ""}, "type": "function"}]
DOCUMENTS = [{"title": "T", "text": "x", "id": 3}, {"text": "y", "title": "U"}]


def convert(row: dict[str, Any], **settings: Any) -> Conversation:
    document = make_converter(OpenAI(type="openai", **settings), loss_weights=False)(row)
    assert isinstance(document, Conversation)
    return document


def reject(row: dict[str, Any], **settings: Any) -> RejectRow:
    with pytest.raises(RejectRow) as caught:
        convert({"messages": TURNS, **row}, **settings)
    return caught.value


def read_rows(path: Path, kind: Any) -> list[dict[str, Any]]:
    status = path.stat()
    end = 1 if kind == "parquet" else status.st_size
    file = SourceFile(str(path), 0, kind, None, status.st_size, None, str(status.st_mtime_ns))
    (block,) = read_blocks(Unit(0, (Stretch(0, file, 0, end),)), 2**20, 2**20)
    assert not block.rejects
    return block.rows


def call(arguments: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": arguments}]}


ROW = {"messages": [TURNS[0], call(ODD)], "tools": TOOLS, "documents": DOCUMENTS, "chat_template_kwargs": ODD}


def write_row(folder: Path, kind: str) -> Path:
    path = folder / f"rows.{kind}"
    if kind == "parquet":
        texts = {
            key: json.dumps(ROW[key], ensure_ascii=False) for key in ("tools", "documents", "chat_template_kwargs")
        }
        messages = [TURNS[0], {"role": "assistant", "tool_calls": json.dumps([call(ODD)["tool_calls"][0]])}]
        pq.write_table(pa.Table.from_pylist([{"messages": messages, **texts}]), path)
    else:
        path.write_text(json.dumps(ROW) if kind == "jsonl" else json.dumps([ROW]))
    return path


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_keys_keep_their_order_in_every_format(kind: str, tmp_path: Path) -> None:
    (row,) = read_rows(write_row(tmp_path, kind), kind)
    made = convert(row)
    as_text = {key: json.dumps(value, ensure_ascii=False) for key, value in ROW.items()}
    assert made.tools == as_text["tools"]
    assert made.documents == as_text["documents"]
    assert made.template_kwargs == as_text["chat_template_kwargs"]
    (arguments,) = (each.arguments for each in made.messages[1].tool_calls)
    assert arguments == json.dumps(ODD, ensure_ascii=False)


def test_the_keys_of_other_rows_are_no_nulls_in_this_one(tmp_path: Path) -> None:
    """Parquet gives every row the keys of all; a null that a row's own JSON text holds stays."""
    rows = [
        {"messages": [call({"city": "Bern"})], "tools": [{"name": "f", "parameters": {"city": {"type": "string"}}}]},
        {"messages": [call({"unit": "C"})], "tools": [{"name": "f", "parameters": {"unit": {"enum": ["C"]}}}]},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    read = read_rows(tmp_path / "rows.parquet", "parquet")
    assert "unit" in str(read[0])
    for row, original in zip(read, rows, strict=True):
        assert convert(row) == convert(original)
        assert "null" not in str(convert(row))
    own = '{"city": null}'
    assert convert({"messages": [call(own)]}).messages[0].tool_calls[0].arguments == own
    assert (
        convert({"messages": [call({"city": None, "l": [None]})]}).messages[0].tool_calls[0].arguments
        == '{"l": [null]}'
    )
    extra = {"role": "user", "content": "x", "meta": {"a": None, "b": [{"c": None}]}}
    assert convert({"messages": [extra]}).messages[0].extra == {"meta": {"b": [{}]}}


@pytest.mark.parametrize("value", [None, "", [], "[]", "null"])
def test_no_documents(value: Any) -> None:
    assert convert({"messages": TURNS, "documents": value}).documents is None


@pytest.mark.parametrize("value", [None, "", {}, "{}", "null", {"enable_thinking": None}])
def test_no_variables(value: Any) -> None:
    assert convert({"messages": TURNS, "chat_template_kwargs": value}).template_kwargs is None


def test_columns_have_the_names_that_the_config_gives() -> None:
    row = {"messages": TURNS, "docs": DOCUMENTS, "kw": '{"b": 1, "a": null}', "documents": 7, "chat_template_kwargs": 7}
    made = convert(row, documents_column="docs", template_kwargs_column="kw")
    assert made.documents == json.dumps(DOCUMENTS)
    assert made.template_kwargs == '{"b": 1, "a": null}'
    none = convert(row, documents_column=None, template_kwargs_column=None)
    assert (none.documents, none.template_kwargs) == (None, None)


def test_sharegpt_and_custom_rows_have_them_too() -> None:
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello", "reasoning": "r"}]
    made = make_converter(ShareGPT(type="sharegpt"), loss_weights=False)({"conversations": turns, **ROW})
    function = Custom(type="custom", function="copy:copy")
    custom = make_converter(function, loss_weights=False)(ROW)
    assert isinstance(made, Conversation)
    assert isinstance(custom, Conversation)
    assert custom == convert(ROW)
    assert (made.tools, made.documents, made.template_kwargs) == (
        custom.tools,
        custom.documents,
        custom.template_kwargs,
    )
    assert made.messages[1].reasoning_content == "r"


@pytest.mark.parametrize(
    ("row", "reason", "path"),
    [
        ({"documents": "{"}, Reason.INVALID_JSON, "documents"),
        ({"documents": {"text": "x"}}, Reason.WRONG_TYPE, "documents"),
        ({"documents": ["x"]}, Reason.WRONG_TYPE, "documents[0]"),
        ({"documents": [{"text": "\ud800"}]}, Reason.UNENCODABLE, "documents"),
        ({"chat_template_kwargs": "x"}, Reason.INVALID_JSON, "chat_template_kwargs"),
        ({"chat_template_kwargs": [1]}, Reason.WRONG_TYPE, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"messages": []}}, Reason.TEMPLATE_ERROR, "chat_template_kwargs"),
        ({"chat_template_kwargs": '{"tools": null}'}, Reason.TEMPLATE_ERROR, "chat_template_kwargs"),
        ({"messages": [*TURNS, call(ODD) | {"tool_calls": "["}]}, Reason.INVALID_TOOL_CALL, "messages[2].tool_calls"),
        ({"messages": [call(ODD) | {"tool_calls": ["[]"]}]}, Reason.WRONG_TYPE, "messages[0].tool_calls[0]"),
    ],
)
def test_what_is_refused_is_named_by_its_place(row: dict[str, Any], reason: Reason, path: str) -> None:
    refused = reject(row)
    assert refused.reason == reason
    assert refused.detail.startswith(path + ":")


@pytest.mark.parametrize("name", ["messages", "tools", "documents", "add_generation_prompt"])
def test_the_config_cannot_set_what_comes_from_the_rows(name: str, tmp_path: Path) -> None:
    from pipeline.config import load_config

    path = tmp_path / "config.yaml"
    path.write_text(f"{{output: o, seq_len: 64, sources: [], tokenizer: {{path: x}}, template_kwargs: {{{name}: []}}}}")
    with pytest.raises(ConfigError, match=f"template_kwargs.*{name}"):
        load_config(path)
    assert "template_kwargs" in BuildConfig.model_fields


SPANS = [{"begin_offset": 3, "end_offset": 4, "train": True}, {"begin_offset": 0, "end_offset": 1, "train": True}]


def spans(value: Any, key: str = "train_detail", role: str = "assistant", content: Any = "Hello") -> Any:
    row = {"messages": [TURNS[0], {"role": role, "content": content, key: value}]}
    return convert(row).messages[1].spans


def test_trained_spans_are_in_order_and_half_open() -> None:
    assert spans(SPANS) == spans(SPANS, "training_detail") == ((0, 2), (3, 5))
    assert spans([*SPANS, {"begin_offset": 2, "end_offset": 2, "train": False}]) == ((0, 2), (3, 5))
    assert spans([{**SPANS[0], "train": False}]) == spans([]) == ()
    assert spans(None) is None
    assert spans([{**SPANS[0], "train": False}], role="user") == ()
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]  # joined by a line break
    assert spans([{"begin_offset": 3, "end_offset": 5, "train": True}], content=parts) == ((3, 6),)
    row = {"messages": [TURNS[0], {**TURNS[1], "parts": SPANS, "train_detail": "kept"}]}
    made = convert(row, span_key="parts").messages[1]
    assert (made.spans, made.extra) == (((0, 2), (3, 5)), {"train_detail": "kept"})


def span(begin: Any, end: Any, train: Any = True) -> dict[str, Any]:
    return {"begin_offset": begin, "end_offset": end, "train": train}


@pytest.mark.parametrize(
    ("value", "reason", "words"),
    [
        ([span(-1, 2)], Reason.BAD_SPANS, "not within the content"),
        ([span(0, 5)], Reason.BAD_SPANS, "which has 5"),
        ([span(0, 5, False)], Reason.BAD_SPANS, "which has 5"),
        ([span(0, 2), span(2, 3, False)], Reason.BAD_SPANS, "overlap"),
        ([span(3, 1)], Reason.BAD_SPANS, "last comes before the first"),
        ([span(0, 1.5)], Reason.BAD_SPANS, "whole number"),
        ([span(True, 1)], Reason.BAD_SPANS, "whole number"),
        ([span(0, None)], Reason.BAD_SPANS, "whole number"),
        ([span(0, 1, "yes")], Reason.BAD_SPANS, "true or false"),
        ([span(0, 1, None)], Reason.BAD_SPANS, "got nothing"),
        ({"a": 1}, Reason.WRONG_TYPE, "a list"),
        ([[0, 1]], Reason.WRONG_TYPE, "an object"),
    ],
)
def test_bad_spans(value: Any, reason: Reason, words: str) -> None:
    with pytest.raises(RejectRow, match=r"messages\[1\].train_detail") as caught:
        spans(value)
    assert caught.value.reason == reason
    assert words in caught.value.detail


def test_spans_of_another_role_and_of_no_content() -> None:
    with pytest.raises(RejectRow, match="user message") as caught:
        spans(SPANS, role="user")
    assert caught.value.reason == Reason.TRAIN_OTHER_ROLE
    with pytest.raises(RejectRow, match="which has 0"):
        convert({"messages": [TURNS[0], call(ODD) | {"train_detail": SPANS}]})


@given(st.text(min_size=1), st.data())
def test_any_spans_of_any_text(content: str, data: st.DataObject) -> None:
    """Against a mark a character."""
    marks = data.draw(st.lists(st.sampled_from([True, False, None]), min_size=len(content), max_size=len(content)))
    details = [span(place, place, mark) for place, mark in enumerate(marks) if mark is not None]
    made = spans(data.draw(st.permutations(details)), content="x" * len(content))
    trained = {place for begin, end in made for place in range(begin, end)}
    assert trained == {place for place, mark in enumerate(marks) if mark}


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("openai", {"messages": [{"role": "user", "content": "q"}], "chat_template_kwargs": []}),
        ("sharegpt", {"conversations": [{"from": "human", "value": "q"}], "chat_template_kwargs": []}),
        ("sharegpt", {"conversations": [{"from": "human", "value": "q"}], "system": []}),
        ("sharegpt", {"conversations": [{"from": "human", "value": "q"}], "system": 0}),
    ],
)
@pytest.mark.parametrize("in_a_table", [False, True])
def test_what_is_empty_and_of_another_kind_is_refused_in_plain_rows_too(
    kind: str, row: dict[str, Any], in_a_table: bool
) -> None:
    source = {"path": "a", "transform": {"type": kind}}
    config = BuildConfig.model_validate({"output": "o", "seq_len": 8, "sources": [source], "tokenizer": {"path": "t"}})
    converter = make_converter(config.sources[0].transform, loss_weights=False)
    rows = TableRows(pa.Table.from_pylist([row]).to_batches()) if in_a_table else [row]
    block = convert_rows(RowBlock(BlockKey(0, 0, last=True), [0], [0], rows), [converter], [0])
    assert [reject.reason for reject in block.rejects] == ["wrong_type"]
