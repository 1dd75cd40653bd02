"""Rows that hold anything at all: each gives a document or a reject, and the fast ways give what the plain one does."""

import copy
import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from model_folders import load_once

from pipeline.blocks import BlockKey, RowBlock, SourceFile
from pipeline.certify import steps
from pipeline.certify.reread import read_again
from pipeline.coders import DocumentBlockCoder, RowBlockCoder
from pipeline.config import Alpaca, Columns, Custom, OpenAI, ShareGPT, Text, Transform
from pipeline.convert import Converter, convert_rows, make_converter
from pipeline.encoders.base import EncodingFailed
from pipeline.readers.json_depth import MOST_NESTED
from pipeline.readers.plain_values import build_rows
from pipeline.readers.table_rows import TableRows
from schemas.conversation import Conversation, Document, Message, TextDocument, ToolCall
from schemas.rejects import Reason, RejectRow

TRANSFORMS: list[Transform] = [
    OpenAI(type="openai"),
    OpenAI(type="openai", prompt_column="input", completion_column="output"),
    ShareGPT(type="sharegpt", system="Be brief."),
    Columns(type="columns", input="{input}: {text}", output="output", system="system"),
    Alpaca(type="alpaca"),
    Text(type="text"),
]
KEYS = [
    *("messages", "conversations", "role", "from", "content", "value", "text", "input", "output", "instruction"),
    *("system", "tools", "documents", "chat_template_kwargs", "tool_calls", "function", "function_call", "name"),
    *("arguments", "id", "weight", "train", "train_detail", "begin_offset", "end_offset", "reasoning", "type"),
    *("__class__", "items", "", "\0", "loop", "{", "messages.0"),
]
WORDS = ["user", "assistant", "gpt", "human", "function_call", "tool", "text", "{}", "[1", '{"a": "\\ud800"}', "\0", ""]
LEAVES = st.sampled_from(
    [*WORDS, None, True, False, 0, 1, -1, 0.5, 2**70, 10**300, float("nan"), float("inf"), "\ud800"]
) | st.text(max_size=5)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)
CHATS = st.fixed_dictionaries({"role": st.sampled_from(WORDS), "content": VALUES, "from": VALUES, "value": VALUES})
ROWS = st.dictionaries(st.sampled_from(KEYS), VALUES | st.lists(CHATS, max_size=3), max_size=6)


def convert_one(row: dict[str, Any], converter: Converter) -> tuple[Document | None, Reason | None]:
    try:
        return converter(row), None
    except RejectRow as reject:
        return None, reject.reason


@settings(max_examples=150)
@given(st.lists(ROWS, max_size=4), st.sampled_from(TRANSFORMS), st.booleans())
@example([{"text": "\ud800"}], TRANSFORMS[-1], False)
def test_every_row_is_a_document_or_a_reject(rows: list[dict[str, Any]], transform: Transform, weights: bool) -> None:
    converter = make_converter(transform, loss_weights=weights)
    block = RowBlock(BlockKey(0, 0, True), [0] * len(rows), list(range(len(rows))), rows)
    made = convert_rows(block, [converter], [0])
    expected = [convert_one(row, converter) for row in rows]
    assert list(made.documents) == [document for document, _ in expected if document is not None]
    assert [(each.position, each.reason) for each in made.rejects] == [
        (position, reason) for position, (_, reason) in enumerate(expected) if reason
    ]
    assert json.dumps([each.detail for each in made.rejects], ensure_ascii=False).encode()
    assert list(DocumentBlockCoder().decode(DocumentBlockCoder().encode(made)).documents) == list(made.documents)


@settings(max_examples=80)
@given(
    st.lists(st.text(max_size=3) | st.none(), min_size=1, max_size=4),
    st.lists(
        st.lists(CHATS.map(lambda chat: {"role": str(chat["role"]), "content": repr(chat["content"])})), max_size=3
    ),
    st.sampled_from(TRANSFORMS),
)
def test_a_table_gives_what_its_rows_give(texts: list[str | None], chats: list[Any], transform: Transform) -> None:
    size = len(texts)
    columns = {name: texts[::-1] if name == "output" else texts for name in ("text", "input", "output", "instruction")}
    listed = [chats[row] if row < len(chats) else None for row in range(size)]
    shares = [chat and [{"from": each["role"], "value": each["content"]} for each in chat] for chat in listed]
    batch = pa.RecordBatch.from_pydict({**columns, "messages": listed, "conversations": shares})
    rows = build_rows(batch)
    assert rows is not None
    converter = make_converter(transform, loss_weights=False)

    def converted(held: Any) -> tuple[list[Document], list[tuple[int, Reason]]]:
        block = RowBlock(BlockKey(0, 0, True), [0] * size, list(range(size)), held)
        made = convert_rows(block, [converter], [0])
        return list(made.documents), [(reject.position, reject.reason) for reject in made.rejects]

    assert converted(TableRows([batch])) == converted(rows)


class PanicException(BaseException):
    """As pyo3 calls what a panic of Rust becomes."""


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def recurse(row: Any) -> Any:
    return recurse(row)


def forever(row: Any) -> Iterator[str]:
    while True:
        yield "a"


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


def raising(error: BaseException) -> Callable[[Any], Any]:
    def fail(row: Any) -> Any:
        raise error

    return fail


USER, ANSWER = Message("user", "a"), Message("assistant", "b")
NONSENSE: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda row: None,
    "a number": lambda row: 3,
    "a generator without end": forever,
    "a class": lambda row: dict,
    "a conversation of nothing": lambda row: Conversation(None),  # type: ignore[arg-type]
    "a conversation of texts": lambda row: Conversation(("a",)),  # type: ignore[arg-type]
    "calls that are none": lambda row: Conversation((USER, Message("assistant", tool_calls=None))),  # type: ignore[arg-type]
    "calls of dicts": lambda row: Conversation((USER, Message("assistant", tool_calls=({},)))),  # type: ignore[arg-type]
    "a call's name": lambda row: Conversation((Message("assistant", tool_calls=(ToolCall(3, "{}"),)),)),  # type: ignore[arg-type]
    "extra that is none": lambda row: Conversation((USER, Message("assistant", "b", extra=None))),  # type: ignore[arg-type]
    "a set in extra": lambda row: Conversation((USER, Message("assistant", "b", extra={"a": {1}}))),
    "spans of text": lambda row: Conversation((USER, Message("assistant", "b", spans="ab"))),  # type: ignore[arg-type]
    "tools that are a list": lambda row: Conversation((USER, ANSWER), tools=[]),  # type: ignore[arg-type]
    "a text of bytes": lambda row: TextDocument(b"a"),  # type: ignore[arg-type]
    "half a surrogate pair": lambda row: "\ud800",
    "too many levels": lambda row: {"messages": [{"role": "user", "content": "a", "deep": nested(MOST_NESTED)}]},
    "a stack overflow": recurse,
    "an exit": raising(SystemExit(0)),
    "a panic": raising(PanicException("index out of bounds")),
    "an error that says nothing": raising(Unspeakable()),
    "an error that cannot be written": raising(ValueError("\ud800" * 2000)),
    "a reject of its own kind": lambda row: raising(RejectRow("odd", 3))(row),  # type: ignore[arg-type]
}
FUNCTIONS: dict[str, Callable[[Any], Any]] = {}


def call(row: Any) -> Any:
    return FUNCTIONS["call"](row)


@pytest.mark.parametrize("name", NONSENSE)
def test_a_custom_function_that_gives_nonsense_rejects_the_row(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FUNCTIONS, "call", NONSENSE[name])
    settings_ = Custom(type="custom", function="json:dumps")
    converter = make_converter(settings_, loss_weights=False)
    object.__setattr__(converter.convert, "function", call)  # type: ignore[attr-defined]
    with pytest.raises(RejectRow) as caught:
        converter({})
    assert caught.value.reason in Reason
    assert caught.value.detail.encode()


def test_an_interrupt_is_no_reject() -> None:
    converter = make_converter(Custom(type="custom", function="json:dumps"), loss_weights=False)
    object.__setattr__(converter.convert, "function", raising(KeyboardInterrupt()))  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        converter({})


def test_rows_of_the_most_levels_pass_every_coder() -> None:
    """What a reader lets through is far from where Python's recursion ends."""
    rows = [{"messages": [{"role": "user", "content": "a"}], "deep": nested(MOST_NESTED - 2)}]
    block = RowBlock(BlockKey(0, 0, True), [0], [0], rows)
    assert list(RowBlockCoder().decode(RowBlockCoder().encode(block)).rows) == rows


class Panics:
    """The part of a tokenizers.Tokenizer that is asked for ids."""

    def encode(self, text: str, **options: Any) -> Any:
        raise PanicException("index out of bounds")


def test_a_panic_of_tokenizers_is_a_failed_encoding(qwen_folder: Path) -> None:
    encoder = copy.copy(load_once(str(qwen_folder)).encoder)
    monkey: Any = encoder
    monkey._tokenizer = Panics()
    with pytest.raises(EncodingFailed, match="tokenizers gave up on the text: index out of bounds"):
        encoder.encode("a", [])


@pytest.mark.parametrize(
    "name", ["an exit", "a panic", "a set in extra", "half a surrogate pair", "a generator without end"]
)
def test_the_certificate_takes_what_a_custom_function_does(name: str) -> None:
    """A sampled row is asked for before it is converted, and travels as JSON."""
    source = SimpleNamespace(transform=Custom(type="custom", function="json:dumps"))
    recipe = SimpleNamespace(config=SimpleNamespace(sources=[source]))
    converter = SimpleNamespace(convert=SimpleNamespace(function=NONSENSE[name]))
    plan: Any = SimpleNamespace(recipe=recipe, converters=[converter])
    assert json.dumps(steps._request({}, plan, 0))


def test_sampled_lines_are_read_again_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.zst"
    path.write_bytes(zstandard.compress(b'{"a": 1}\n' + b"x" * 2**24 + b"\n{}\n"))
    file = SourceFile(str(path), 0, "jsonl", "zstd", path.stat().st_size, None, str(path.stat().st_mtime_ns))
    tracemalloc.start()
    try:
        found = read_again(file, [0, 9 + 2**24 + 1], 2**16)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == {0: {"a": 1}, 9 + 2**24 + 1: {}}
    assert peak < 2**22
