"""JSON inside a row: tool definitions and arguments stay text, and are checked here."""

import json
from typing import Any

from pipeline.readers.json_depth import TOO_DEEP, is_deep, may_be_deep
from schemas.rejects import Reason, RejectRow


def parse_json(text: str, path: str, reason: Reason) -> Any:
    """Raises RejectRow(reason) where `text` is no JSON, or nested too deeply."""
    try:
        value = json.loads(text)
        failed = False
    except (ValueError, RecursionError):
        failed = True
    if may_be_deep(text) and (failed or is_deep(value)):  # said alike however full the stack is
        raise RejectRow(reason, f"{path}: not valid JSON, or {TOO_DEEP}")
    if failed:
        raise RejectRow(reason, f"{path}: not valid JSON")
    return value


def dump_json(value: Any, path: str) -> str:
    """The value as JSON text, keys in their order. Raises RejectRow for what JSON has no form for, such as a date."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise RejectRow(Reason.WRONG_TYPE, f"{path}: has no form in JSON ({type(error).__name__})") from error


def dump_without_nulls(value: Any, path: str) -> str:
    """The JSON text of `without_nulls(value)`."""
    text = dump_json(value, path)
    return dump_json(without_nulls(value, path), path) if "null" in text else text


def without_nulls(value: Any, path: str) -> Any:
    """The value without the null keys of its objects: in a table, a key that another row has is null, not absent."""
    try:
        return _without_nulls(value)
    except RecursionError as error:
        raise RejectRow(Reason.WRONG_TYPE, f"{path}: is nested too deeply") from error


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list | tuple) else value
