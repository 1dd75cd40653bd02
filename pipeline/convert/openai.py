"""Messages as OpenAI's chat API has them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.config import OpenAI
from pipeline.convert import fields
from pipeline.convert.validate import validate
from schemas.conversation import Conversation, Message, MessageRole, ToolCall
from schemas.rejects import Reason, RejectRow

_ROLES: dict[str, MessageRole] = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
_KNOWN = {"role", "content", "reasoning_content", "tool_calls", "tool_call_id", "name", "train", "weight"}


class OpenAIConverter:
    def __init__(self, settings: OpenAI, *, loss_weights: bool) -> None:
        self._settings = settings
        self._loss_weights = loss_weights

    def __call__(self, row: dict[str, Any]) -> Conversation:
        settings = self._settings
        messages = self._messages(row)
        tools = fields.tools(row.get(settings.tools_column), settings.tools_column) if settings.tools_column else None
        return validate(Conversation(with_system(messages, settings.system), tools))

    def _messages(self, row: dict[str, Any]) -> tuple[Message, ...]:
        prompt, completion = self._settings.prompt_column, self._settings.completion_column
        if prompt is None or completion is None:
            return self._read(fields.column(row, self._settings.column), self._settings.column)
        asked = _as_messages(fields.column(row, prompt), "user")
        answered = _as_messages(fields.column(row, completion), "assistant")
        asked = [{**message, "train": False} if isinstance(message, dict) else message for message in asked]
        return self._read(asked, prompt) + self._read(answered, completion)

    def _read(self, values: Any, path: str) -> tuple[Message, ...]:
        return read_messages(values, path, self._settings.roles, loss_weights=self._loss_weights)


def _as_messages(value: Any, role: str) -> list[Any]:
    return [{"role": role, "content": value}] if isinstance(value, str) else value


def with_system(messages: Sequence[Message], system: str | None) -> tuple[Message, ...]:
    """The config's system message in the place of the row's own, or put first."""
    if system is None:
        return tuple(messages)
    rest = messages[1:] if messages and messages[0].role in ("system", "developer") else messages
    return (Message(role="system", content=system), *rest)


def read_messages(values: Any, path: str, roles: Mapping[str, str], *, loss_weights: bool) -> tuple[Message, ...]:
    """Raises RejectRow."""
    return tuple(
        _message(fields.mapping(value, f"{path}[{index}]"), f"{path}[{index}]", roles, loss_weights)
        for index, value in enumerate(fields.array(values, path))
    )


def _message(value: dict[str, Any], path: str, roles: Mapping[str, str], loss_weights: bool) -> Message:
    given = value.get("role")
    name = roles.get(given, given) if isinstance(given, str) else None
    if name not in _ROLES:
        raise RejectRow(Reason.UNKNOWN_ROLE, f"{path}.role is {given!r}; map it with transform.roles"[:200])
    role = _ROLES[name]
    train, weight = loss_of(value, path, role, loss_weights=loss_weights)
    message = Message(
        role=role,
        content=_content(value.get("content"), f"{path}.content"),
        reasoning_content=fields.optional_text(value.get("reasoning_content"), f"{path}.reasoning_content"),
        tool_calls=_calls(value.get("tool_calls"), f"{path}.tool_calls"),
        tool_call_id=fields.optional_text(value.get("tool_call_id"), f"{path}.tool_call_id"),
        name=fields.optional_text(value.get("name"), f"{path}.name"),
        train=train,
        weight=weight,
        extra={key: item for key, item in value.items() if key not in _KNOWN and item is not None},
    )
    if message.content is None and not (message.tool_calls or message.reasoning_content):
        raise RejectRow(Reason.EMPTY, f"{path} has neither content nor tool calls")
    return message


def loss_of(
    value: Mapping[str, Any], path: str, role: MessageRole, *, loss_weights: bool
) -> tuple[bool | None, float | None]:
    """A message's `train` and `weight`; a weight of 0 is the same as train: false."""
    train = value.get("train")
    if train is not None and not isinstance(train, bool):
        raise fields.wrong_type(f"{path}.train", train, "a boolean")
    if train and role != "assistant":
        detail = f"{path}: train: true on a {role} message; set a loss_policy that has the role, such as all"
        raise RejectRow(Reason.TRAIN_OTHER_ROLE, detail)
    given = value.get("weight")
    weight = None if given is None else fields.weight(given, f"{path}.weight", allowed=loss_weights)
    return (False, None) if weight == 0 else (train, weight)


def _content(value: Any, path: str) -> str | None:
    """Text as it stands; a list of text parts joined by line ends, as vLLM gives them to a template."""
    if value is None or isinstance(value, str):
        return fields.optional_text(value, path)
    parts = [_part(part, f"{path}[{index}]") for index, part in enumerate(fields.array(value, path))]
    return "\n".join(parts)


def _part(part: Any, path: str) -> str:
    if isinstance(part, str):
        return fields.text(part, path)
    part = fields.mapping(part, path)
    if part.get("type") != "text":
        raise RejectRow(
            Reason.UNSUPPORTED_CONTENT, f"{path} is of type {part.get('type')!r}, only text is supported"[:200]
        )
    return fields.text(part.get("text"), f"{path}.text")


def _calls(value: Any, path: str) -> tuple[ToolCall, ...]:
    if not value:
        return ()
    return tuple(read_call(call, f"{path}[{index}]") for index, call in enumerate(fields.array(value, path)))


def read_call(value: Any, path: str) -> ToolCall:
    """A call, with its function's name and arguments in `function` or beside its id. Raises RejectRow."""
    call = fields.mapping(value, path)
    function = fields.mapping(call["function"], f"{path}.function") if call.get("function") is not None else call
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise RejectRow(Reason.INVALID_TOOL_CALL, f"{path} names no function")
    arguments = function.get("arguments")
    call_id = fields.optional_text(call.get("id"), f"{path}.id")
    return ToolCall(fields.text(name, f"{path}.name"), _arguments(arguments, f"{path}.arguments"), call_id)


def _arguments(value: Any, path: str) -> str:
    """JSON text of an object."""
    if value is None or value == "":
        return "{}"
    if isinstance(value, dict):
        return fields.text(fields.json_text(value), path)
    try:
        parsed = json.loads(fields.text(value, path))
    except ValueError as error:
        if isinstance(error, RejectRow):
            raise
        raise RejectRow(Reason.INVALID_TOOL_CALL, f"{path} is no JSON: {type(error).__name__}") from error
    if not isinstance(parsed, dict):
        raise RejectRow(Reason.INVALID_TOOL_CALL, f"{path} is JSON of type {fields.kind(parsed)}, an object is wanted")
    return str(value)
