"""Tool calls, in the shapes that rows have them in."""

from typing import Any

from pipeline.convert.fields import optional_text, require_list, require_object, require_text
from pipeline.convert.json_text import dump_without_nulls, parse_json
from schemas.conversation import ToolCall
from schemas.rejects import Reason, RejectRow


def read_calls(value: Any, path: str) -> tuple[ToolCall, ...]:
    """A message's `tool_calls`, as a list or as its JSON text, and so is each call; null and [] are none."""
    items = [] if value is None else require_list(_parsed(value, path), path)
    return tuple(_read_call(item, f"{path}[{index}]") for index, item in enumerate(items))


def read_call_text(value: Any, path: str) -> tuple[ToolCall, ...]:
    """Calls that are the content of a message: a call or a list of them, as JSON text or already parsed."""
    calls = _parsed(value, path)
    if not isinstance(calls, dict | list) or not calls:
        raise RejectRow(Reason.INVALID_TOOL_CALL, f"{path}: expected a call or a list of calls")
    return read_calls([calls] if isinstance(calls, dict) else calls, path)


def _parsed(value: Any, path: str) -> Any:
    return parse_json(value, path, Reason.INVALID_TOOL_CALL) if isinstance(value, str) else value


def _read_call(value: Any, path: str) -> ToolCall:
    """{"id", "type", "function": {"name", "arguments"}}, or {"name", "arguments"} alone."""
    item = require_object(_parsed(value, path), path)
    function = require_object(item.get("function") or item, f"{path}.function")
    for key in ("name", "arguments"):
        if function.get(key) is None:
            raise RejectRow(Reason.INVALID_TOOL_CALL, f"{path}: {key!r} is missing")
    arguments = function["arguments"]
    return ToolCall(
        name=require_text(function["name"], f"{path}.name"),
        arguments=arguments if isinstance(arguments, str) else dump_without_nulls(arguments, f"{path}.arguments"),
        id=optional_text(item.get("id"), f"{path}.id"),
    )
