"""Numbers, lists and dicts of the row, as they enter a template; and where a value came from."""

from collections.abc import Mapping
from typing import Any

from pipeline.chat.limits import CONTAINERS, spend
from pipeline.chat.traced import Origin, Traced, as_row_text


class TracedInt(int):
    """A number of the row."""

    origin: Origin

    def __new__(cls, value: int, origin: Origin) -> "TracedInt":
        made = super().__new__(cls, value)
        made.origin = origin
        return made

    def traced(self) -> Traced:
        return as_row_text(int.__repr__(self), self.origin)

    def __str__(self) -> Traced:
        return self.traced()


class TracedFloat(float):
    """A number of the row."""

    origin: Origin

    def __new__(cls, value: float, origin: Origin) -> "TracedFloat":
        made = super().__new__(cls, value)
        made.origin = origin
        return made

    def traced(self) -> Traced:
        return as_row_text(float.__repr__(self), self.origin)

    def __str__(self) -> Traced:
        return self.traced()


def trace(value: Any, origin: Origin) -> Any:
    """A JSON-like value whose strings, keys and numbers remember `origin`; booleans and null stay as they are."""
    if isinstance(value, str):
        return as_row_text(value, origin)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return TracedInt(value, origin)
    if isinstance(value, float):
        return TracedFloat(value, origin)
    if isinstance(value, Mapping):
        return {trace(key, origin): trace(item, origin) for key, item in value.items()}
    assert isinstance(value, list | tuple), type(value)
    return [trace(item, origin) for item in value]


def first_origin(value: Any) -> Origin | None:
    """The first origin found in a value, looking into containers; None where all is the template's."""
    if isinstance(value, Traced | TracedInt | TracedFloat):
        return value.origin
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, CONTAINERS):
        spend(1 + len(value))
        return next((origin for origin in map(first_origin, value) if origin is not None), None)
    return None
