"""Message lists, whatever the keys and the names of the roles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from typing import Any

from pipeline.config import RoleTarget
from pipeline.convert.content import read_content
from pipeline.convert.fields import optional_text, require_list, require_object, shorten
from pipeline.convert.loss import read_loss
from pipeline.convert.tools import read_call_text, read_calls
from schemas.conversation import MESSAGE_ROLES, Message, MessageRole, ToolCall
from schemas.rejects import Reason, RejectRow

OPENAI_ROLES: Mapping[str, RoleTarget] = {**{role: role for role in MESSAGE_ROLES}, "function": "tool"}

_FIELDS = frozenset(
    ("role", "content", "reasoning_content", "tool_calls", "function_call", "tool_call_id", "name", "train", "weight")
)


@dataclass(frozen=True, slots=True)
class MessageReader:
    """Reads the messages of one dialect; further keys that are not null go into `extra`.

    The role target `function_call` is an assistant's message whose content is the JSON of its tool calls.
    """

    roles: Mapping[str, RoleTarget]
    loss_weights: bool
    role_key: str = "role"
    content_key: str = "content"

    def read_list(self, value: Any, path: str) -> tuple[Message, ...]:
        """Raises RejectRow, which names the message as path[index]."""
        return tuple(self.read(item, f"{path}[{index}]") for index, item in enumerate(require_list(value, path)))

    def read(self, value: Any, path: str) -> Message:
        item = require_object(value, path)
        role, content, calls = self._read_body(item, path)
        reasoning = optional_text(item.get("reasoning_content"), f"{path}.reasoning_content")
        if content is None and not (role == "assistant" and (calls or reasoning)):
            raise RejectRow(Reason.EMPTY, f"{path}.{self.content_key} is missing")
        loss = read_loss(item.get("train"), item.get("weight"), role, path, loss_weights=self.loss_weights)
        known = _FIELDS | {self.role_key, self.content_key}
        return Message(
            role=role,
            content=content,
            reasoning_content=reasoning,
            tool_calls=calls,
            tool_call_id=optional_text(item.get("tool_call_id"), f"{path}.tool_call_id"),
            name=optional_text(item.get("name"), f"{path}.name"),
            train=loss.train,
            weight=loss.weight,
            extra={key: field for key, field in item.items() if field is not None and key not in known},
        )

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
