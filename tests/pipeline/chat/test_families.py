"""Every chat template that TRL ships renders the same text here as in transformers, and nothing in it goes untraced."""

import copy
import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from pipeline.chat.probe import choose_call_style
from pipeline.chat.template import ChatTemplate
from schemas.conversation import Conversation, Message, ToolCall
from schemas.rejects import RejectRow

VARIABLES = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "where"}},
    "required": ["city"],
}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "W \u00e9", "parameters": PARAMETERS}}]
FUNCTION = {"name": "weather", "arguments": {"city": "Z\u00fc", "n": 3}}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "id": "abcdefghi", "function": FUNCTION}],
}
RESULT = {"role": "tool", "content": "15 C", "tool_call_id": "abcdefghi", "name": "weather"}


def said(role: str, content: str, **more: str) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


CHATS: dict[str, list[dict[str, Any]]] = {
    "single": [said("user", "Hi\n <x>"), said("assistant", " Hello\n\u4e16\u754c")],
    "multi": [said("user", "a"), said("assistant", "b"), said("user", "c"), said("assistant", "d")],
    "system": [said("system", "S"), said("user", "a"), said("assistant", "b")],
    "tools": [said("user", "a"), CALL, RESULT, said("assistant", "done")],
    "ends in a call": [said("user", "a"), CALL],
    "reasoning": [
        said("user", "a"),
        said("assistant", "b", reasoning_content="because\n"),
        said("user", "c"),
        said("assistant", "d", reasoning_content="so"),
    ],
}


def as_message(raw: dict[str, Any]) -> Message:
    calls = [(call["function"], call["id"]) for call in raw.get("tool_calls", [])]
    return Message(
        role=raw["role"],
        content=raw["content"],
        reasoning_content=raw.get("reasoning_content"),
        tool_calls=tuple(ToolCall(f["name"], json.dumps(f["arguments"], ensure_ascii=False), at) for f, at in calls),
        tool_call_id=raw.get("tool_call_id"),
        name=raw.get("name"),
    )


def served(source: str, chat: list[dict[str, Any]], tools: list[Any] | None, *, as_text: bool) -> str | None:
    """What transformers renders, None where the template refuses; `as_text`: tool arguments as JSON strings."""
    from transformers.utils.chat_template_utils import render_jinja_template

    chat = copy.deepcopy(chat)
    for call in (call for message in chat for call in message.get("tool_calls", []) if as_text):
        call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    try:
        rendered, _ = render_jinja_template([chat], tools=tools, chat_template=source, **VARIABLES)
    except Exception:  # a template refuses in any way it likes
        return None
    return str(rendered[0])


def templates(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.glob("*.jinja")):
        yield path.stem, path.read_text("utf-8")


def test_every_family_renders_the_same_text(trl_templates: Path) -> None:
    compared = refused = 0
    for name, source in templates(trl_templates):
        template = ChatTemplate(source, VARIABLES, date.today())
        choose_call_style(template)
        for kind, chat in CHATS.items():
            tools = TOOLS if CALL in chat else None
            expected = served(source, chat, tools, as_text=template.tool_arguments == "string")
            try:
                messages = tuple(as_message(raw) for raw in chat)
                made = template.render(Conversation(messages, json.dumps(tools) if tools else None))
            except RejectRow:
                made = None
            assert made == expected, (name, kind)
            compared += expected is not None
            refused += expected is None
        assert not template.environment.uncovered, name
    assert compared > 350
    assert refused < compared / 5
