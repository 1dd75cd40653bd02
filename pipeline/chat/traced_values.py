"""Numbers, lists and dicts of the row, as they enter a template; and where a value came from."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

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


Written: TypeAlias = dict[Any, tuple[Traced, int]]
"""A container's JSON text by its style, with the work that writing it was."""


class TracedDict(dict[Any, Any]):
    """A mapping of the row, all of whose leaves are of `origin`; None where it has none or they are of several.
    Templates cannot change it."""

    __slots__ = ("origin", "written")

    def __init__(self, items: Mapping[Any, Any], origin: Origin | None) -> None:
        super().__init__(items)
        self.origin = origin
        self.written: Written = {}


class TracedList(list[Any]):
    """A list of the row, as TracedDict."""

    __slots__ = ("origin", "written")

    def __init__(self, items: Iterable[Any], origin: Origin | None) -> None:
        super().__init__(items)
        self.origin = origin
        self.written: Written = {}


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
        entries = {trace(key, origin): trace(item, origin) for key, item in value.items()}
        return TracedDict(entries, origin if entries else None)
    assert isinstance(value, list | tuple), type(value)
    items = [trace(item, origin) for item in value]
    return TracedList(items, origin if any(getattr(item, "origin", None) for item in items) else None)


def first_origin(value: Any) -> Origin | None:
    """The first origin found in a value, looking into containers; None where all is the template's."""
    if isinstance(value, Traced | TracedInt | TracedFloat):
        return value.origin
    if isinstance(value, TracedDict | TracedList) and value.origin is not None:
        return value.origin
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, CONTAINERS):
        spend(1 + len(value))
        return next((origin for origin in map(first_origin, value) if origin is not None), None)
    return None
