"""A message's content: a string, or a list of text parts."""

from typing import Any

from pipeline.convert.fields import require_text, shorten, wrong_type
from schemas.rejects import Reason, RejectRow


def read_content(value: Any, path: str) -> str | None:
    """Parts are joined by a line break, as vLLM joins them for templates that take strings. Null is absent."""
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list | tuple):
        raise wrong_type(path, "a string or a list of parts", value)
    return "\n".join(_read_part(part, f"{path}[{index}]") for index, part in enumerate(value))


def _read_part(part: Any, path: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise wrong_type(path, "a string or an object", part)
    if part.get("type") != "text":
        kind = shorten(part.get("type"))
        raise RejectRow(Reason.UNSUPPORTED_CONTENT, f"{path}: a part of type {kind}; only text can be packed")
    return require_text(part.get("text"), f"{path}.text")
