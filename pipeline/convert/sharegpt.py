"""ShareGPT's `from`/`value` turns."""

import json
from typing import Any

from pipeline.config import ShareGPT
from pipeline.convert import fields
from pipeline.convert.openai import loss_of, read_call, with_system
from pipeline.convert.validate import validate
from schemas.conversation import MESSAGE_ROLES, Conversation, Message, ToolCall
from schemas.rejects import Reason, RejectRow

_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "function_call": "function_call",
    "observation": "tool",
    "tool": "tool",
}


class ShareGPTConverter:
    def __init__(self, settings: ShareGPT, *, loss_weights: bool) -> None:
        self._settings = settings
        self._roles = {**_ROLES, **settings.roles}
        self._loss_weights = loss_weights

    def __call__(self, row: dict[str, Any]) -> Conversation:
        settings = self._settings
        turns = fields.array(fields.column(row, settings.column), settings.column)
        messages = tuple(self._message(turn, f"{settings.column}[{index}]") for index, turn in enumerate(turns))
        system = settings.system
        if system is None and settings.system_column and row.get(settings.system_column):
            system = fields.text(row[settings.system_column], settings.system_column)
        tools = fields.tools(row.get(settings.tools_column), settings.tools_column) if settings.tools_column else None
        return validate(Conversation(with_system(messages, system), tools))

    def _message(self, value: Any, path: str) -> Message:
        turn = fields.mapping(value, path)
        given = turn.get("from")
        role = self._roles.get(given) if isinstance(given, str) else None
        if role is None:
            raise RejectRow(Reason.UNKNOWN_ROLE, f"{path}.from is {given!r}; map it with transform.roles"[:200])
        content = fields.text(turn.get("value"), f"{path}.value")
        if role == "function_call":
            train, weight = loss_of(turn, path, "assistant", loss_weights=self._loss_weights)
            return Message("assistant", tool_calls=_calls(content, f"{path}.value"), train=train, weight=weight)
        assert role in MESSAGE_ROLES
        train, weight = loss_of(turn, path, role, loss_weights=self._loss_weights)
        return Message(role, content, train=train, weight=weight)


def _calls(value: str, path: str) -> tuple[ToolCall, ...]:
    """The JSON text of one call, or of a list of calls."""
    try:
        parsed = json.loads(value)
    except ValueError as error:
        raise RejectRow(Reason.INVALID_TOOL_CALL, f"{path} is no JSON: {type(error).__name__}") from error
    calls = parsed if isinstance(parsed, list) else [parsed]
    if not calls:
        raise RejectRow(Reason.INVALID_TOOL_CALL, f"{path} is an empty list of calls")
    return tuple(read_call(call, f"{path}[{index}]") for index, call in enumerate(calls))
