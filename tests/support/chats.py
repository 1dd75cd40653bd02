"""Chats as a server is sent them, as conversations; written apart from our converters."""

import json
from typing import Any

from schemas.conversation import Conversation, Message, ToolCall

Chat = list[dict[str, Any]]


def as_conversation(chat: Chat, tools: list[Any] | None = None) -> Conversation:
    return Conversation(tuple(map(_as_message, chat)), None if tools is None else json.dumps(tools, ensure_ascii=False))


def _as_message(raw: dict[str, Any]) -> Message:
    calls = [(call["function"], call.get("id")) for call in raw.get("tool_calls", [])]
    return Message(
        role=raw["role"],
        content=raw.get("content"),
        reasoning_content=raw.get("reasoning_content"),
        tool_calls=tuple(ToolCall(f["name"], json.dumps(f["arguments"], ensure_ascii=False), at) for f, at in calls),
        tool_call_id=raw.get("tool_call_id"),
        name=raw.get("name"),
    )
