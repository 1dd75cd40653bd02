"""How much a template may do: work that is counted anew for every rendering.

Chat templates come with downloaded models, so one of them may try to hang a build or to fill its memory; Jinja's
sandbox bounds neither. Every iteration, call and filter costs a unit of work, and so does every stretch of text or
list that is made, read or compared (costs.py says how much). What is allowed depends on the conversation alone, not on
a clock, so that a row is refused everywhere or nowhere. Outside a rendering nothing is counted.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from jinja2.exceptions import TemplateRuntimeError

_CHARACTERS, _ELEMENTS = 6, 3
"""A unit of work is 2^6 characters, or 2^3 elements of a list."""
CHARACTERS_A_RUN = 16
"""What a run of one origin counts in the size of a string: Python looks at each of them."""
_MOST_NESTED = 500
CONTAINERS: tuple[type[Any], ...] = (list, tuple, set, type({}.keys()), type({}.values()), type({}.items()))
"""What a template can go through that is no dict."""


class LimitExceeded(TemplateRuntimeError):
    """The template does more than its conversation warrants."""


class Budget:
    """The units of work that are left, and the most characters that the rendering may have.

    There is room for going over all messages for each of them, and over all text for every fourth of them.
    """

    __slots__ = ("left", "output")

    def __init__(self, characters: int, messages: int) -> None:
        self.left = 100_000 + 32 * messages**2 + characters * (4 + messages // 4)
        self.output = 4_000_000 + 64 * characters


_current: ContextVar[Budget | None] = ContextVar("budget", default=None)


@contextmanager
def limited(budget: Budget) -> Iterator[None]:
    token = _current.set(budget)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def counted() -> Iterator[Callable[[], int]]:
    """Gives what tells the units that were spent since."""
    budget = _current.get()
    before = 0 if budget is None else budget.left
    yield lambda: 0 if budget is None else before - budget.left


def spend(units: int) -> None:
    """Raises LimitExceeded where no work is left."""
    budget = _current.get()
    if budget is not None:
        budget.left -= units
        if budget.left < 0:
            raise LimitExceeded("the template does far more than a conversation of this size needs, or loops forever")


def step() -> bool:
    """One iteration of a loop. True, so that it can stand in a condition."""
    spend(1)
    return True


def spend_text(characters: int) -> None:
    if characters >> _CHARACTERS:
        spend(characters >> _CHARACTERS)


def spend_elements(count: int) -> None:
    spend(count >> _ELEMENTS)


def room() -> int:
    """The characters that can still be made."""
    budget = _current.get()
    return sys.maxsize if budget is None else budget.left << _CHARACTERS


def measure(value: Any) -> Any:
    """Counts a string, list or dict by its length, and gives it back."""
    if isinstance(value, str):
        spend_text(len(value))
    elif isinstance(value, list | tuple | dict):
        spend_elements(len(value))
    return value


def weigh(value: Any) -> Any:
    """Counts all that is in a value, as printing or comparing it would go through it, and gives it back.

    A list can hold another one many times over, so that a few short lists print as more than any memory holds.
    """
    if isinstance(value, str):
        if len(value) >> _CHARACTERS:
            spend(len(value) >> _CHARACTERS)
        return value
    if isinstance(value, int | None):
        return value
    level, depth = [value], 0
    while level := _elements(level):
        depth += 1
        if depth > _MOST_NESTED:
            raise LimitExceeded(f"a value is nested more than {_MOST_NESTED} levels deep")
    return value


def search(value: Any) -> Any:
    """Counts what `in` goes through, and gives the value back; a dict is not gone through."""
    return value if isinstance(value, dict) else weigh(value)


def _elements(values: list[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if isinstance(value, str):
            spend_text(len(value))
        elif isinstance(value, dict | MappingProxyType):
            spend(1 + len(value))
            found += value.keys()
            found += value.values()
        elif isinstance(value, CONTAINERS):
            spend(1 + len(value))
            found += value
    return found
