"""The `openai` transform: message lists in all the shapes that rows have them in."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import OpenAI
from pipeline.convert import make_converter
from schemas.conversation import Conversation, Message, ToolCall
from schemas.rejects import Reason, RejectRow

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}
CALL = {"name": "add", "arguments": {"b": 2, "a": [1, None, "\u00e9"]}}
ARGUMENTS = '{"b": 2, "a": [1, null, "\u00e9"]}'


def convert(row: dict[str, Any], *, loss_weights: bool = False, **settings: Any) -> Conversation:
    converter = make_converter(OpenAI(type="openai", **settings), loss_weights=loss_weights)
    document = converter(row)
    assert isinstance(document, Conversation)
    return document


def messages(*items: Any, **options: Any) -> tuple[Message, ...]:
    return convert({"messages": list(items)}, **options).messages


def reject(row: dict[str, Any], **options: Any) -> RejectRow:
    with pytest.raises(RejectRow) as caught:
        convert(row, **options)
    return caught.value


def reject_of(*items: Any, **options: Any) -> RejectRow:
    return reject({"messages": list(items)}, **options)


def test_roles() -> None:
    names = ["system", "developer", "user", "assistant", "tool", "function"]
    made = messages(*({"role": name, "content": "x"} for name in names))
    assert [message.role for message in made] == ["system", "developer", "user", "assistant", "tool", "tool"]
    assert messages({"role": "bot", "content": "x"}, roles={"bot": "assistant"}) == (Message("assistant", "x"),)
    unknown = reject_of(USER, {"role": "bot", "content": "secret"})
    assert unknown.reason == Reason.UNKNOWN_ROLE
    assert "messages[1].role is 'bot'" in unknown.detail


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("a\nb", "a\nb"),
        ("", ""),
        ([], ""),
        ([{"type": "text", "text": "a"}, "b", {"type": "text", "text": "c", "image_url": None}], "a\nb\nc"),
    ],
)
def test_content_is_a_string_or_parts(content: Any, text: str) -> None:
    assert messages({"role": "user", "content": content}, ANSWER)[0].content == text


@pytest.mark.parametrize("kind", ["image_url", "input_audio", None])
def test_what_is_no_text_cannot_be_packed(kind: str | None) -> None:
    refused = reject_of({"role": "user", "content": [{"type": kind, "image_url": "secret"}]})
    assert refused.reason == Reason.UNSUPPORTED_CONTENT
    assert "messages[0].content[0]" in refused.detail
    assert "secret" not in refused.detail


def test_only_an_assistant_with_calls_or_reasoning_may_have_no_content() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    thought = {"role": "assistant", "reasoning_content": "Hm."}
    assert [message.content for message in messages(USER, call, thought)] == ["Hi", None, None]
    for bad in ({"role": "user", "tool_calls": [CALL]}, {"role": "assistant", "content": None, "tool_calls": []}):
        assert reject_of(USER, bad).reason == Reason.EMPTY


@pytest.mark.parametrize(
    ("item", "call"),
    [
        (CALL, ToolCall("add", ARGUMENTS)),
        ({"id": "c1", "type": "function", "function": CALL}, ToolCall("add", ARGUMENTS, "c1")),
        ({"name": "add", "arguments": '{"a":1 }'}, ToolCall("add", '{"a":1 }')),
        ({"name": "add", "arguments": {}, "function": None}, ToolCall("add", "{}")),
    ],
)
def test_tool_calls(item: dict[str, Any], call: ToolCall) -> None:
    assert messages({"role": "assistant", "tool_calls": [item]})[0].tool_calls == (call,)


def test_a_call_in_the_old_form() -> None:
    made = messages({"role": "assistant", "content": None, "function_call": CALL})
    assert made == (Message("assistant", tool_calls=(ToolCall("add", ARGUMENTS),)),)


@pytest.mark.parametrize("arguments", ["", "{", "[1]", "null", '"text"', [1], 3, None, "[" * 100_000])
def test_arguments_are_an_object(arguments: Any) -> None:
    bad = {"role": "assistant", "tool_calls": [{"name": "add", "arguments": arguments}]}
    refused = reject_of(bad)
    assert refused.reason == Reason.INVALID_TOOL_CALL
    assert "messages[0].tool_calls[0]" in refused.detail


def test_arguments_nested_too_deeply_reject_the_row_alone() -> None:
    deep: Any = {}
    for _ in range(100_000):
        deep = {"a": deep}
    assert (
        reject_of({"role": "assistant", "tool_calls": [{"name": "f", "arguments": deep}]}).reason == Reason.WRONG_TYPE
    )


def test_null_fields_are_absent_and_further_keys_are_kept() -> None:
    tool = {"role": "tool", "content": "3", "tool_call_id": "c1", "name": "add", "refusal": None, "step": {"n": 1}}
    null = dict.fromkeys(("tool_calls", "tool_call_id", "name", "reasoning_content", "train", "weight", "x"))
    assert messages(USER | null, tool) == (
        Message("user", "Hi"),
        Message("tool", "3", tool_call_id="c1", name="add", extra={"step": {"n": 1}}),
    )


@pytest.mark.parametrize("name", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_goes_by_three_names(name: str) -> None:
    assert messages(ANSWER | {name: "r"}) == (Message("assistant", "Hello", reasoning_content="r"),)
    assert messages(ANSWER | {"reasoning_content": "r", name: "r"}) == messages(ANSWER | {name: "r"})
    refused = reject_of(ANSWER | {name: ["r"]})
    assert (refused.reason, refused.detail.partition(":")[0]) == (Reason.WRONG_TYPE, f"messages[0].{name}")


def test_another_reasoning_beside_it_is_left_to_the_template() -> None:
    made = messages({"role": "assistant", "content": "4", "thinking": "2 + 2", "reasoning_content": "r"})
    assert made == (Message("assistant", "4", reasoning_content="r", extra={"thinking": "2 + 2"}),)


@pytest.mark.parametrize(
    ("given_", "train", "weight"),
    [
        ({"train": False}, False, None),
        ({"train": True}, True, None),
        ({"weight": 0}, False, None),
        ({"weight": 1.0}, None, None),
        ({"weight": 0.25}, None, 0.25),
        ({"weight": 3, "train": True}, True, 3.0),
    ],
)
def test_train_and_weight(given_: dict[str, Any], train: bool | None, weight: float | None) -> None:
    (made,) = messages(ANSWER | given_, loss_weights=True)
    assert (made.train, made.weight) == (train, weight)


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf"), 10**400, "1", True, [1]])
def test_bad_weights(weight: Any) -> None:
    assert reject_of(ANSWER | {"weight": weight}, loss_weights=True).reason == Reason.BAD_WEIGHT


def test_train_and_weight_that_contradict_each_other() -> None:
    assert reject_of(ANSWER | {"weight": 0, "train": True}).reason == Reason.BAD_WEIGHT


def test_a_fractional_weight_names_the_option_that_it_needs() -> None:
    refused = reject_of(USER, ANSWER | {"weight": 0.5})
    assert refused.reason == Reason.FRACTIONAL_WEIGHT
    assert "loss_weights: true" in refused.detail


@pytest.mark.parametrize(("role", "channel"), [("user", "user"), ("developer", "system"), ("tool", "tool")])
def test_training_another_role_is_the_matter_of_a_policy(role: str, channel: str) -> None:
    from schemas.policy import LossPolicy, Term

    refused = reject_of({"role": role, "content": "x", "train": True})
    assert refused.reason == Reason.TRAIN_OTHER_ROLE
    assert f"roles: [assistant, {channel}]" in refused.detail
    LossPolicy(terms=(Term(roles=("assistant", channel), parts=("body", "end")),))  # type: ignore[arg-type]


def test_prompt_and_completion() -> None:
    settings = {"prompt_column": "prompt", "completion_column": "completion"}
    made = convert({"prompt": [USER, ANSWER, USER], "completion": [ANSWER]}, **settings).messages
    assert [message.train for message in made] == [False, False, False, None]
    made = convert({"prompt": "Hi", "completion": "Hello"}, **settings).messages
    assert made == (Message("user", "Hi", train=False), Message("assistant", "Hello"))
    refused = reject({"prompt": "Hi", "messages": [USER]}, **settings)
    assert refused.reason == Reason.MISSING_COLUMN
    assert "'completion'" in refused.detail


@pytest.mark.parametrize("tools", [None, "", [], "[]", " [ ] ", "null"])
def test_no_tools(tools: Any) -> None:
    assert convert({"messages": [USER, ANSWER], "tools": tools}).tools is None
    assert convert({"messages": [USER, ANSWER]}).tools is None


@pytest.mark.parametrize(
    ("tools", "text"),
    [
        ('[ {"name": "add"}]', '[ {"name": "add"}]'),
        ([{"type": "function", "function": {"name": "\u00e9", "a": 1}}], None),
        ([{"name": "add"}], '[{"name": "add"}]'),
    ],
)
def test_tools_stay_as_they_came(tools: Any, text: str | None) -> None:
    made = convert({"messages": [USER, ANSWER], "defs": tools}, tools_column="defs").tools
    assert made == (text or json.dumps(tools, ensure_ascii=False))


@pytest.mark.parametrize(
    ("tools", "reason"),
    [("[", Reason.INVALID_JSON), ("{}", Reason.WRONG_TYPE), (["add"], Reason.WRONG_TYPE), (7, Reason.WRONG_TYPE)],
)
def test_tools_that_are_no_definitions(tools: Any, reason: Reason) -> None:
    refused = reject({"messages": [USER, ANSWER], "tools": tools})
    assert refused.reason == reason
    assert refused.detail.startswith("tools")


def test_a_missing_column_is_named_beside_those_that_are_there() -> None:
    refused = reject({"conversation": [USER], "id": 3})
    assert refused.reason == Reason.MISSING_COLUMN
    assert "'messages'" in refused.detail
    assert "'conversation', 'id'" in refused.detail
    assert reject({"messages": None}).reason == Reason.MISSING_COLUMN


def test_the_systems_text_of_the_settings_replaces_the_rows_own() -> None:
    system = {"role": "system", "content": "Old."}
    expected = (Message("system", "New."), Message("user", "Hi"))
    assert messages(USER, system="New.") == expected
    assert messages(system, USER, system="New.") == expected
    assert messages(USER, system, system="New.") == (*expected, Message("system", "Old."))


@pytest.mark.parametrize(
    ("item", "path"),
    [
        ("text", "messages[0]"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        ({"role": "user", "content": [{"type": "text", "text": 5}]}, "messages[0].content[0].text"),
        ({"role": "user", "content": "x", "name": 5}, "messages[0].name"),
        ({"role": "user", "content": "x", "train": 1}, "messages[0].train"),
        ({"role": "assistant", "tool_calls": {}, "reasoning_content": 1}, "messages[0].reasoning_content"),
        ({"role": "assistant", "tool_calls": {"secret": 1}}, "messages[0].tool_calls"),
        ({"role": "user", "content": "x", "when": b"secret"}, "messages[0] ('when')"),
    ],
)
def test_a_wrong_type_is_named_by_its_path_without_the_content(item: Any, path: str) -> None:
    refused = reject_of(item)
    assert refused.reason == Reason.WRONG_TYPE
    assert refused.detail.startswith(path + ":")
    assert "secret" not in refused.detail


@pytest.mark.parametrize(
    "items", [[], [{"role": "user", "content": ""}], [USER | {"content": ""}, ANSWER | {"content": ""}]]
)
def test_a_conversation_says_something(items: list[Any]) -> None:
    assert reject_of(*items).reason == Reason.EMPTY


@pytest.mark.parametrize(
    "item",
    [
        {"role": "user", "content": "\ud800"},
        {"role": "assistant", "reasoning_content": "\ud800"},
        {"role": "assistant", "tool_calls": [{"name": "\ud800", "arguments": {}}]},
        {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"\ud800": 1}}]},
        {"role": "assistant", "tool_calls": [{"name": "f", "arguments": '{"a": "\\ud800"}'}]},
        {"role": "user", "content": "x", "note": ["\ud800"]},
    ],
)
def test_lone_surrogates_are_found_wherever_they_are(item: dict[str, Any]) -> None:
    assert reject_of(item).reason == Reason.UNENCODABLE


def test_lone_surrogates_in_tools() -> None:
    row = {"messages": [USER, ANSWER], "tools": '[{"name": "\\ud800"}]'}
    assert reject(row).reason == Reason.UNENCODABLE
    assert convert(row | {"tools": '[{"name": "\\ud83d\\ude00"}]'}).tools


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KEYS = ["role", "content", "tool_calls", "train", "weight", "name", "reasoning_content", "function_call", "other"]
MESSAGE = st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4).map(lambda item: {**USER, **item})


@given(st.fixed_dictionaries({"messages": JSON | st.lists(MESSAGE, max_size=3)}, optional={"tools": JSON}))
def test_any_row_gives_a_conversation_or_a_reject(row: dict[str, Any]) -> None:
    with suppress(RejectRow):
        assert convert(row, loss_weights=True).messages


@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text(min_size=1)), min_size=1))
def test_content_goes_through_as_it_is(turns: list[tuple[str, str]]) -> None:
    made = messages(*({"role": role, "content": text} for role, text in turns))
    assert [(message.role, message.content) for message in made] == turns
