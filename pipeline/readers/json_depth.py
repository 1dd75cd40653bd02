"""How deep a row may be nested. A value within the limit can be walked by anybody's recursion; one beyond it would be
refused or not by how full the stack happens to be, and so differently on different runners."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

MOST_NESTED = 100
TOO_DEEP = f"nested more than {MOST_NESTED} levels deep"


def is_deep(value: Any) -> bool:
    """Whether objects and lists are nested beyond the limit."""
    level: list[Any] = [[value]]
    for _ in range(MOST_NESTED + 1):
        values = chain.from_iterable(each.values() if isinstance(each, dict) else each for each in level)
        level = [each for each in values if isinstance(each, dict | list | tuple)]
        if not level:
            return False
    return True


def may_be_deep(text: str) -> bool:
    """Whether JSON text has so many brackets that they could be nested beyond the limit."""
    return text.count("[") + text.count("{") > MOST_NESTED


def may_be_deep_lines(lines: Sequence[bytes]) -> list[int]:
    """The lines of JSON, by their index, of which that is so."""
    data = np.frombuffer(b"".join(lines), np.uint8)
    opening = np.flatnonzero(data | np.uint8(0x20) == np.uint8(ord("{")))  # "[" and "{" differ by that bit
    if len(opening) <= MOST_NESTED:
        return []
    before = np.searchsorted(opening, np.cumsum([0, *map(len, lines)]))
    found: list[int] = np.flatnonzero(np.diff(before) > MOST_NESTED).tolist()
    return found
