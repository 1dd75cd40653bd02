"""Message lists, whatever the keys and the names of the roles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from typing import Any

from pipeline.config import RoleTarget
from pipeline.convert.content import read_content
from pipeline.convert.fields import optional_text, require_list, require_object, shorten
from pipeline.convert.json_text import without_nulls
from pipeline.convert.loss import read_loss
from pipeline.convert.spans import read_spans
from pipeline.convert.tools import read_call_text, read_calls
from schemas.conversation import MESSAGE_ROLES, Message, MessageRole, ToolCall
from schemas.rejects import Reason, RejectRow

OPENAI_ROLES: Mapping[str, RoleTarget] = {**{role: role for role in MESSAGE_ROLES}, "function": "tool"}

REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
"""The names that reasoning is passed under, in transformers' order."""

SPAN_KEYS = ("train_detail", "training_detail")

_FIELDS = frozenset(("role", "content", "tool_calls", "function_call", "tool_call_id", "name", "train", "weight"))


@dataclass(frozen=True, slots=True)
class MessageReader:
    """Reads the messages of one dialect; further keys that are not null go into `extra`.

    The role target `function_call` is an assistant's message whose content is the JSON of its tool calls.
    """

    roles: Mapping[str, RoleTarget]
    loss_weights: bool
    role_key: str = "role"
    content_key: str = "content"
    span_keys: Sequence[str] = SPAN_KEYS

    def read_list(self, value: Any, path: str) -> tuple[Message, ...]:
        """Raises RejectRow, which names the message as path[index]."""
        return tuple(self.read(item, f"{path}[{index}]") for index, item in enumerate(require_list(value, path)))

    def read(self, value: Any, path: str) -> Message:
        item = require_object(value, path)
        role, content, calls = self._read_body(item, path)
        reasoning = self._read_reasoning(item, path)
        if content is None and not (role == "assistant" and (calls or reasoning)):
            raise RejectRow(Reason.EMPTY, f"{path}.{self.content_key} is missing")
        loss = read_loss(item.get("train"), item.get("weight"), role, path, loss_weights=self.loss_weights)
        span_key = next((key for key in self.span_keys if item.get(key) is not None), self.span_keys[0])
        spans = read_spans(item.get(span_key), content, role, f"{path}.{span_key}")
        return Message(
            role=role,
            content=content,
            reasoning_content=reasoning,
            tool_calls=calls,
            tool_call_id=optional_text(item.get("tool_call_id"), f"{path}.tool_call_id"),
            name=optional_text(item.get("name"), f"{path}.name"),
            train=loss.train,
            weight=loss.weight,
            spans=spans,
            extra=self._read_extra(item, reasoning, path),
        )

    def _read_reasoning(self, item: Mapping[str, Any], path: str) -> str | None:
        key = next((key for key in REASONING_KEYS if item.get(key) is not None), REASONING_KEYS[0])
        return optional_text(item.get(key), f"{path}.{key}")

    def _read_extra(self, item: Mapping[str, Any], reasoning: str | None, path: str) -> dict[str, Any]:
        """What is left to the template: unknown keys, and reasoning that differs from the one read."""
        known = {*_FIELDS, self.role_key, self.content_key, *self.span_keys}
        if reasoning is not None:
            known.update(key for key in REASONING_KEYS if item.get(key) == reasoning)
        return {
            key: without_nulls(field, f"{path}.{shorten(key)}")
            for key, field in item.items()
            if key not in known and field is not None
        }

    def _read_body(self, item: Mapping[str, Any], path: str) -> tuple[MessageRole, str | None, tuple[ToolCall, ...]]:
        role = self._read_role(item.get(self.role_key), f"{path}.{self.role_key}")
        content = item.get(self.content_key)
        if role == "function_call":
            return "assistant", None, read_call_text(content, f"{path}.{self.content_key}")
        legacy = [item["function_call"]] if item.get("function_call") else None
        calls = read_calls(item.get("tool_calls") or legacy, f"{path}.tool_calls")
        return role, read_content(content, f"{path}.{self.content_key}"), calls

    def _read_role(self, name: Any, path: str) -> RoleTarget:
        role = self.roles.get(name) if isinstance(name, str) else None
        if role is None:
            if name is None:
                raise RejectRow(Reason.UNKNOWN_ROLE, f"{path} is missing or null")
            known = ", ".join(self.roles)
            raise RejectRow(
                Reason.UNKNOWN_ROLE,
                f"{path} is {shorten(name)}; known are {known}; add it to `roles` of the transform",
            )
        return role


def with_system(messages: Sequence[Message], system: str | None) -> tuple[Message, ...]:
    """The messages with `system` in the place of the system messages that they begin with."""
    if system is None:
        return tuple(messages)
    turns = dropwhile(lambda message: message.role in ("system", "developer"), messages)
    return (Message("system", system), *turns)
