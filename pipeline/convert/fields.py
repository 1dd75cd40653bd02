"""Taking typed fields out of rows. What is wrong is named by its path; the content itself is never repeated."""

import json
import math
from collections.abc import Mapping
from typing import Any

from schemas.rejects import Reason, RejectRow


def kind(value: Any) -> str:
    """The JSON name of a value's type."""
    if value is None:
        return "null"
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), type(value).__name__)


def wrong_type(path: str, value: Any, wanted: str) -> RejectRow:
    return RejectRow(Reason.WRONG_TYPE, f"{path} is of type {kind(value)}, {wanted} is wanted")


def column(row: Mapping[str, Any], name: str) -> Any:
    """A column's value; a null counts as missing."""
    value = row.get(name)
    if value is None:
        raise RejectRow(Reason.MISSING_COLUMN, f"no column {name!r}")
    return value


def text(value: Any, path: str) -> str:
    """A string that UTF-8 can hold."""
    if not isinstance(value, str):
        raise wrong_type(path, value, "a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RejectRow(Reason.UNENCODABLE, f"{path} holds a lone surrogate at character {error.start}") from error
    return value


def optional_text(value: Any, path: str) -> str | None:
    return None if value is None else text(value, path)


def text_column(row: Mapping[str, Any], name: str) -> str:
    """A column of text; numbers are written out."""
    value = column(row, name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return text(value, name)


def array(value: Any, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise wrong_type(path, value, "an array")
    return value


def mapping(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong_type(path, value, "an object")
    return value


def json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def tools(value: Any, path: str) -> str | None:
    """Tool definitions as the JSON text of a list; an empty list or text counts as none."""
    if value is None or value in ("", []):
        return None
    if isinstance(value, str):
        try:
            parsed = json.loads(value)
        except ValueError as error:
            raise RejectRow(Reason.WRONG_TYPE, f"{path} is no JSON: {type(error).__name__}") from error
        array(parsed, path)
        return text(value, path) if parsed else None
    return text(json_text(array(value, path)), path)


def weight(value: Any, path: str, *, allowed: bool) -> float | None:
    """A loss weight: None for 1. `allowed` is the option loss_weights."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise RejectRow(Reason.BAD_WEIGHT, f"{path} is {value!r}, a number of at least 0 is wanted"[:200])
    if value in (0, 1):
        return None if value else 0.0
    if not allowed:
        raise RejectRow(Reason.FRACTIONAL_WEIGHT, f"{path} is {value}: set loss_weights: true to train with weights")
    return float(value)
