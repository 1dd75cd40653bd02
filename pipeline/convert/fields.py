"""Reading the columns of a row and the fields in them. Rejects name the place, never the content."""

from collections.abc import Mapping, Sequence
from typing import Any

from schemas.rejects import Reason, RejectRow

NAMES_SHOWN = 12


def require_column(row: Mapping[str, Any], column: str) -> Any:
    """The column's value. Raises RejectRow where it is missing or null."""
    value = row.get(column)
    if value is not None:
        return value
    if column in row:
        raise RejectRow(Reason.MISSING_COLUMN, f"column {column!r} is null")
    names = ", ".join(list(map(shorten, row))[:NAMES_SHOWN]) or "no columns"
    raise RejectRow(Reason.MISSING_COLUMN, f"no column {column!r}; the row has {names}")


def require_text(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise wrong_type(path, "a string", value)
    return value


def optional_text(value: Any, path: str) -> str | None:
    return None if value is None else require_text(value, path)


def require_list(value: Any, path: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise wrong_type(path, "a list", value)
    return value


def require_object(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise wrong_type(path, "an object", value)
    return value


def wrong_type(path: str, expected: str, value: Any) -> RejectRow:
    seen = "null" if value is None else type(value).__name__
    return RejectRow(Reason.WRONG_TYPE, f"{path}: expected {expected}, got {seen}")


def shorten(word: object) -> str:
    """A name as it stands in the row, safe to print."""
    return ascii(str(word)[:40])
