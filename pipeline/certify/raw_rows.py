"""A raw row as a person would send it to a server: messages and tools, or a text.

Written apart from pipeline.convert, on purpose: what one of the two gets wrong the other does not.
"""

import copy
import json
from collections.abc import Callable, Mapping
from itertools import dropwhile
from typing import Any, TypeAlias

from pipeline.config import Alpaca, Columns, Custom, OpenAI, ShareGPT, Text, Transform

Row: TypeAlias = Mapping[str, Any]

Request: TypeAlias = dict[str, Any]
"""{"messages": [...], "tools": [...] or None, "documents": [...] or None, "kwargs": {...}}, or {"text": "..."}.
Arguments of calls are as the row has them."""

_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "developer", "tool": "tool"}
_OPENAI = _ROLES | {"function": "tool"}
_SHAREGPT = _ROLES | {"human": "user", "gpt": "assistant", "model": "assistant", "observation": "tool"}
_SHAREGPT |= {"function_call": "function_call"}
_OWN_KEYS = {"role", "content", "tool_calls", "function_call", "train", "weight"}


def request_of(row: Row, transform: Transform, function: Callable[..., Any] | None) -> Request:
    """`function` is the one that a `custom` transform names. Raises an exception of any kind for a row that it cannot
    make a request of."""
    match transform:
        case OpenAI():
            return _with_context(_chat(_openai(row, transform), transform.system), row, transform)
        case ShareGPT():
            return _with_context(_chat(_sharegpt(row, transform), transform.system), row, transform)
        case Alpaca():
            return _chat(_alpaca(row, transform), transform.system)
        case Columns():
            return _chat(_columns(row, transform), None)
        case Text():
            return {"text": row[transform.column]}
        case Custom():
            assert function is not None
            return _custom(function(copy.deepcopy(dict(row)), **transform.args))


def _chat(messages: list[dict[str, Any]], system: str | None) -> Request:
    if system is not None:
        turns = dropwhile(lambda message: message["role"] in ("system", "developer"), messages)
        messages = [{"role": "system", "content": system}, *turns]
    return {"messages": messages, "tools": None, "documents": None, "kwargs": {}}


def _with_context(request: Request, row: Row, settings: OpenAI | ShareGPT) -> Request:
    return request | {
        "tools": _parsed(row.get(settings.tools_column or "")) or None,
        "documents": _parsed(row.get(settings.documents_column or "")) or None,
        "kwargs": _parsed(row.get(settings.template_kwargs_column or "")) or {},
    }


def _parsed(value: Any) -> Any:
    """JSON text parsed; of objects the null keys, which tables fill in, left out."""
    return json.loads(value) if isinstance(value, str) and value else _without_nulls(value)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _openai(row: Row, settings: OpenAI) -> list[dict[str, Any]]:
    roles = _OPENAI | settings.roles
    if settings.prompt_column is None or settings.completion_column is None:
        return [_message(message, roles, "role", "content") for message in row[settings.column]]
    sides = ((row[settings.prompt_column], "user"), (row[settings.completion_column], "assistant"))
    given = [[{"role": role, "content": side}] if isinstance(side, str) else side for side, role in sides]
    return [_message(message, roles, "role", "content") for side in given for message in side]


def _sharegpt(row: Row, settings: ShareGPT) -> list[dict[str, Any]]:
    roles = _SHAREGPT | settings.roles
    system = row.get(settings.system_column) if settings.system_column else None
    first = [{"role": "system", "content": system}] if system else []
    return [*first, *(_message(message, roles, "from", "value") for message in row[settings.column])]


def _message(raw: Row, roles: Mapping[str, str], role_key: str, content_key: str) -> dict[str, Any]:
    role, content = roles[raw[role_key]], raw.get(content_key)
    calls = raw.get("tool_calls") or ([raw["function_call"]] if raw.get("function_call") else [])
    if role == "function_call":
        given = json.loads(content) if isinstance(content, str) else content
        role, content, calls = "assistant", None, [given] if isinstance(given, dict) else given
    message: dict[str, Any] = {"role": role}
    if content is not None:
        message["content"] = content if isinstance(content, str) else "\n".join(map(_part, content))
    if calls:
        message["tool_calls"] = [_call(call) for call in calls]
    own = _OWN_KEYS | {role_key, content_key}
    return message | {key: _without_nulls(value) for key, value in raw.items() if value is not None and key not in own}


def _part(part: Any) -> str:
    return part if isinstance(part, str) else str(part["text"])


def _call(raw: Row) -> dict[str, Any]:
    function = raw.get("function") or raw
    call: dict[str, Any] = {"type": "function"}
    if raw.get("id") is not None:
        call["id"] = raw["id"]
    return {**call, "function": {"name": function["name"], "arguments": _without_nulls(function["arguments"])}}


def _alpaca(row: Row, settings: Alpaca) -> list[dict[str, Any]]:
    prompt = str(row[settings.instruction])
    if row.get(settings.input) not in (None, ""):
        prompt += f"\n\n{row[settings.input]}"
    return _turn(prompt, str(row[settings.output]))


def _columns(row: Row, settings: Columns) -> list[dict[str, Any]]:
    turn = _turn(_column(row, settings.input), _column(row, settings.output))
    if settings.system is None:
        return turn
    literal = "{" not in settings.system and settings.system not in row
    system = settings.system if literal else _column(row, settings.system)
    return [{"role": "system", "content": system}, *turn]


def _column(row: Row, name: str) -> str:
    return name.format_map(row) if "{" in name else str(row[name])


def _turn(prompt: str, answer: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def _custom(result: Any) -> Request:
    """Raises TypeError for anything but plain Python values: it is a converted conversation already."""
    if isinstance(result, str):
        return {"text": result}
    if isinstance(result, list):
        result = {"messages": result}
    if not isinstance(result, dict):
        raise TypeError(type(result).__name__)
    messages = [_message(message, _OPENAI, "role", "content") for message in result["messages"]]
    context: Request = {"tools": None, "documents": None, "template_kwargs": {}} | result
    return _chat(messages, None) | {
        "tools": _parsed(context["tools"]) or None,
        "documents": _parsed(context["documents"]) or None,
        "kwargs": _parsed(context["template_kwargs"]) or {},
    }
