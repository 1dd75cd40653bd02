"""The transforms that make documents out of columns: `columns`, `alpaca`, `text`."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Alpaca, Columns, Text
from pipeline.convert import make_converter
from schemas.conversation import Conversation, Document, Message, TextDocument
from schemas.errors import ConfigError
from schemas.rejects import Reason, RejectRow

ROW = {"question": "2 + 2?", "answer": 4, "my notes": "x", "null": None, "price": 0.5}


def columns(row: dict[str, Any], **settings: Any) -> tuple[Message, ...]:
    converter = make_converter(Columns(type="columns", **settings), loss_weights=False)
    document = converter(row)
    assert isinstance(document, Conversation)
    return document.messages


def reject(row: dict[str, Any], settings: Any) -> RejectRow:
    with pytest.raises(RejectRow) as caught:
        make_converter(settings, loss_weights=False)(row)
    return caught.value


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("question", "2 + 2?"),
        ("answer", "4"),
        ("price", "0.5"),
        ("my notes", "x"),
        ("Q: {question}", "Q: 2 + 2?"),
        ("{question} {my notes}{answer}\n", "2 + 2? x4\n"),
        ("{{question}} {answer}", "{question} 4"),
        ("{{}}", "{}"),
    ],
)
def test_a_column_or_a_format_string_over_columns(source: str, text: str) -> None:
    assert columns(ROW, input=source, output="answer") == (Message("user", text), Message("assistant", "4"))
    assert columns(ROW, input="answer", output=source)[1] == Message("assistant", text)


@pytest.mark.parametrize("source", ["{", "{}", "{a.b}", "{a[0]}", "{a!r}", "{a:>4}", "{a} }", '{"k": {a}}'])
@pytest.mark.parametrize("key", ["input", "output", "system"])
def test_a_format_string_has_plain_names_only(source: str, key: str) -> None:
    settings = {"input": "a", "output": "b", key: source}
    with pytest.raises(ConfigError, match=rf"transform\.{key}: .*write a column as"):
        make_converter(Columns(type="columns", **settings), loss_weights=False)


@pytest.mark.parametrize(
    ("system", "text"),
    [
        ("Solve it step by step.", "Solve it step by step."),
        ("Translate.", "Translate."),
        ("question", "2 + 2?"),
        ("my notes", "x"),
        ("About {question}", "About 2 + 2?"),
    ],
)
def test_the_system_is_a_column_or_literal_text(system: str, text: str) -> None:
    assert columns(ROW, input="question", output="answer", system=system)[0] == Message("system", text)


def test_a_bare_word_as_system_is_a_column_that_must_be_there() -> None:
    refused = reject(ROW, Columns(type="columns", input="question", output="answer", system="system_prompt"))
    assert refused.reason == Reason.MISSING_COLUMN
    assert "'system_prompt'" in refused.detail


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.MISSING_COLUMN),
        (True, Reason.WRONG_TYPE),
        (["secret"], Reason.WRONG_TYPE),
        (float("nan"), Reason.WRONG_TYPE),
        ("\ud800", Reason.UNENCODABLE),
    ],
)
def test_values_that_are_no_text(value: Any, reason: Reason) -> None:
    refused = reject(ROW | {"question": value}, Columns(type="columns", input="{question}", output="answer"))
    assert refused.reason == reason
    assert "secret" not in refused.detail


def test_both_sides_empty() -> None:
    assert reject({"a": "", "b": ""}, Columns(type="columns", input="a", output="b")).reason == Reason.EMPTY


@given(st.dictionaries(st.text("abc_ ", min_size=1), st.text(), min_size=1))
def test_a_format_string_does_what_str_format_does(row: dict[str, str]) -> None:
    source = "".join(f"{{{{{name}}}}} {{{name}}}" for name in row)
    assert columns({**row, "out": "x"}, input=source, output="out")[0].content == source.format(**row)


@pytest.mark.parametrize("empty", [{}, {"input": None}, {"input": ""}])
def test_alpaca_without_input(empty: dict[str, Any]) -> None:
    assert alpaca({"instruction": "Say hi.", "output": "hi", **empty}) == Conversation(
        (Message("user", "Say hi."), Message("assistant", "hi"))
    )


def alpaca(row: dict[str, Any], **settings: Any) -> Document:
    return make_converter(Alpaca(type="alpaca", **settings), loss_weights=False)(row)


def test_alpaca() -> None:
    made = alpaca({"instruction": "Add.", "input": "2 3", "answer": "5"}, output="answer", system="Be brief.")
    turn = (Message("user", "Add.\n\n2 3"), Message("assistant", "5"))
    assert made == Conversation((Message("system", "Be brief."), *turn))
    refused = reject({"instruction": "Add.", "input": ["x"], "output": "5"}, Alpaca(type="alpaca"))
    assert refused.reason == Reason.WRONG_TYPE


def test_text() -> None:
    convert = make_converter(Text(type="text", column="body"), loss_weights=False)
    assert convert({"body": " a\n"}) == TextDocument(" a\n")
    for value, reason in {"": Reason.EMPTY, 5: Reason.WRONG_TYPE, None: Reason.MISSING_COLUMN}.items():
        assert reject({"body": value}, Text(type="text", column="body")).reason == reason
    assert reject({"body": "\udfff"}, Text(type="text", column="body")).reason == Reason.UNENCODABLE
