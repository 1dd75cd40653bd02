"""The `sharegpt` transform: `from`/`value` lists."""

import json
from typing import Any

import pytest

from pipeline.config import ShareGPT
from pipeline.convert import make_converter
from schemas.conversation import Conversation, Message, ToolCall
from schemas.rejects import Reason, RejectRow

HUMAN = {"from": "human", "value": "Hi"}
GPT = {"from": "gpt", "value": "Hello"}
CALL = {"name": "add", "arguments": {"a": 1}}


def convert(row: dict[str, Any], *, loss_weights: bool = False, **settings: Any) -> Conversation:
    converter = make_converter(ShareGPT(type="sharegpt", **settings), loss_weights=loss_weights)
    document = converter(row)
    assert isinstance(document, Conversation)
    return document


def messages(*items: Any, **options: Any) -> tuple[Message, ...]:
    return convert({"conversations": list(items)}, **options).messages


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("human", "user"),
        ("user", "user"),
        ("gpt", "assistant"),
        ("assistant", "assistant"),
        ("model", "assistant"),
        ("system", "system"),
        ("observation", "tool"),
        ("tool", "tool"),
    ],
)
def test_roles(name: str, role: str) -> None:
    (made,) = messages({"from": name, "value": "x"})
    assert (made.role, made.content) == (role, "x")


def test_roles_of_the_settings_come_first() -> None:
    roles = {"gpt": "user", "acts": "function_call"}
    made = messages({"from": "gpt", "value": "x"}, {"from": "acts", "value": CALL}, roles=roles)
    assert made == (Message("user", "x"), Message("assistant", tool_calls=(ToolCall("add", '{"a": 1}'),)))


@pytest.mark.parametrize("value", [CALL, [CALL], json.dumps(CALL), json.dumps([CALL])])
def test_a_call_is_an_assistants_message_of_its_own(value: Any) -> None:
    made = messages(HUMAN, GPT, {"from": "function_call", "value": value}, {"from": "observation", "value": "3"})
    assert made == (
        Message("user", "Hi"),
        Message("assistant", "Hello"),
        Message("assistant", tool_calls=(ToolCall("add", '{"a": 1}'),)),
        Message("tool", "3"),
    )


def test_several_calls_at_once() -> None:
    (made,) = messages({"from": "function_call", "value": json.dumps([CALL, {"name": "f", "arguments": "{ }"}])})
    assert made.tool_calls == (ToolCall("add", '{"a": 1}'), ToolCall("f", "{ }"))


@pytest.mark.parametrize("value", ["", "text", "[]", "{}", "3", None, 3, "[1]", '{"name": "f"}', '{"arguments": {}}'])
def test_a_call_that_is_none(value: Any) -> None:
    with pytest.raises(RejectRow) as caught:
        messages({"from": "function_call", "value": value})
    assert caught.value.reason in (Reason.INVALID_TOOL_CALL, Reason.WRONG_TYPE)
    assert caught.value.detail.startswith("conversations[0].value")


def test_train_and_weight() -> None:
    made = messages(HUMAN, GPT | {"train": False}, GPT | {"weight": 0.5}, GPT | {"weight": 0}, loss_weights=True)
    assert [(message.train, message.weight) for message in made] == [
        (None, None),
        (False, None),
        (None, 0.5),
        (False, None),
    ]


def test_the_system_comes_from_a_column_or_from_the_settings() -> None:
    row = {"conversations": [HUMAN, GPT], "system": "Be brief.", "sys": "Be kind."}
    assert convert(row).messages[0] == Message("system", "Be brief.")
    assert convert(row, system_column="sys").messages[0] == Message("system", "Be kind.")
    assert convert(row, system="Be yourself.").messages[:2] == (
        Message("system", "Be yourself."),
        Message("user", "Hi"),
    )
    for none in ({"system": None}, {"system": ""}):
        assert convert(row | none).messages[0] == Message("user", "Hi")
    assert convert(row, system_column=None).messages[0] == Message("user", "Hi")


def test_tools() -> None:
    tools = '[{"name": "add"}]'
    assert convert({"conversations": [HUMAN, GPT], "tools": tools}).tools == tools
    assert convert({"conversations": [HUMAN, GPT], "tools": "[]"}).tools is None


@pytest.mark.parametrize(
    ("item", "reason", "path"),
    [
        ({"from": "bot", "value": "secret"}, Reason.UNKNOWN_ROLE, "conversations[0].from"),
        ({"value": "secret"}, Reason.UNKNOWN_ROLE, "conversations[0].from"),
        ({"from": "human"}, Reason.EMPTY, "conversations[0].value"),
        ({"from": "human", "value": {"a": "secret"}}, Reason.WRONG_TYPE, "conversations[0].value"),
    ],
)
def test_rejects_name_the_keys_of_the_row(item: dict[str, Any], reason: Reason, path: str) -> None:
    with pytest.raises(RejectRow) as caught:
        messages(item)
    assert caught.value.reason == reason
    assert caught.value.detail.startswith(path)
    assert "secret" not in caught.value.detail
