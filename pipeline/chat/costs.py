"""What filters, methods and operators of a template cost, counted before they run.

Most take as long as their operands are large. Those that can make much out of little (widths, repetition, powers),
or whose time grows faster than their operands, are named here.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import GeneratorType
from typing import Any

from pipeline.chat.limits import CHARACTERS_A_RUN, LimitExceeded, measure, spend, spend_elements, spend_text, weigh
from pipeline.chat.traced import Traced, runs_of

_MOST_CHAINED = 100
_MOST_BITS = 2**14
_MOST_DIGITS = 4300  # of numbers as text: Python's own limit

_SHALLOW_FILTERS = frozenset(
    ("attr", "batch", "count", "d", "default", "first", "items", "last", "length", "list", "map")
    + ("reject", "rejectattr", "reverse", "select", "selectattr", "slice", "sum")
)
"""They hand their value's elements on as they are. All others may print or compare them."""
_WIDTH_METHODS = frozenset(["center", "ljust", "rjust", "zfill"])
PRODUCT_METHODS = frozenset(["lstrip", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "strip"])
"""Their time is the length of the text times that of the argument."""

NOT_AVAILABLE = frozenset(["encode", "from_bytes", "maketrans", "to_bytes", "translate"])
"""Methods of strings and numbers that lead out of text, where neither origins nor sizes are followed."""

Given = Sequence[Any]


def _numbers(given: Given) -> int:
    return sum(abs(value) for value in given[1:] if isinstance(value, int))


def _lengths(given: Given) -> list[int]:
    return [len(value) for value in given if isinstance(value, str)]


def _few_digits(number: int) -> None:
    if number > _MOST_DIGITS:
        raise LimitExceeded(f"a number of more than {_MOST_DIGITS} digits")


def _text_times_argument(given: Given) -> None:
    lengths = _lengths(given)
    spend_text(lengths[0] * lengths[1] if len(lengths) == 2 else 0)


def _parsed_digits(given: Given) -> None:
    """Python itself limits the digits of a number in text, except in bases that are powers of two."""
    if any(base in (2, 4, 8, 16, 32) for base in given[1:]):
        _few_digits(sum(_lengths(given)))


def _quadratic(given: Given) -> None:
    spend(sum(_lengths(given)) ** 2 >> 10)


_FURTHER_COSTS: dict[str, Callable[[Given], None]] = {
    "batch": lambda given: spend(_numbers(given)),
    "center": lambda given: spend_text(_numbers(given)),
    "indent": lambda given: spend_text(_numbers(given)),
    "int": _parsed_digits,
    "pprint": _quadratic,
    "round": lambda given: _few_digits(_numbers(given)),
    "slice": lambda given: spend(_numbers(given)),
    "striptags": _quadratic,
    "tojson": lambda given: spend_text(_numbers(given)),
    "trim": _text_times_argument,
    "urlize": _quadratic,
    "wordwrap": _quadratic,
}


def filter_cost(name: str) -> Callable[[Given], None]:
    """What counts a use of the filter, from its value and its arguments."""
    look = measure if name in _SHALLOW_FILTERS else weigh
    further = _FURTHER_COSTS.get(name)

    def count(given: Given) -> None:
        spend(1)
        look(given[0])
        for value in given[1:]:
            weigh(value)
        if further is not None:
            further(given)

    return count


class Counted:
    """What a lazy filter gives, counted as it is taken."""

    __slots__ = ("_depth", "_values")

    def __init__(self, values: Iterator[Any], depth: int) -> None:
        if depth > _MOST_CHAINED:
            raise LimitExceeded(f"more than {_MOST_CHAINED} filters in a chain")
        self._values, self._depth = values, depth

    def __iter__(self) -> "Counted":
        return self

    def __next__(self) -> Any:
        spend(1)
        return next(self._values)


def count_lazily(result: Any, given: Given) -> Any:
    """The result of a filter, with what it still has to do counted."""
    if type(result) is not GeneratorType:
        return result
    return Counted(result, 1 + max((value._depth for value in given if type(value) is Counted), default=0))


def count_call(owner: Any, name: str, given: Given) -> None:
    """Counts a call of a function, or of the method `name` of `owner`."""
    spend(1)
    if isinstance(owner, str):
        spend_text(len(owner))
        if name in _WIDTH_METHODS:
            spend_text(_numbers((owner, *given)))
        elif name == "expandtabs":
            spend_text(len(owner) * (_numbers((owner, *given)) or 8))
        elif name in PRODUCT_METHODS:
            spend_text(sum(len(owner) * length for length in _lengths(given) if length > 64))
    elif name in ("count", "index"):
        weigh(owner)
    else:
        measure(owner)
    for value in given:
        weigh(value)


def add(left: Any, right: Any) -> Any:
    """Counted afterwards: the sum is no more than twice the longer of the two, which were counted."""
    made = left + right
    return made if type(made) is Traced else measure(made)


COMPARISONS = frozenset(
    ("==", "eq", "equalto", "!=", "ne", ">", "gt", "greaterthan", "<", "lt", "lessthan", ">=", "ge", "<=", "le")
    + ("in", "lower", "upper")
)
"""Tests that go through their operands."""


def counted_test(function: Any) -> Any:
    def guarded(*operands: Any) -> Any:
        return function(*map(weigh, operands))

    return guarded


def multiply(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() + right.bit_length())
    for value, times in ((left, right), (right, left)):
        if isinstance(times, int) and times > 0:
            if isinstance(value, str):
                spend_text(times * (len(value) + CHARACTERS_A_RUN * len(runs_of(value))))
            elif isinstance(value, list | tuple):
                spend_elements(times * len(value))
    return left * right


def total(values: Iterable[Any], start: Any = 0) -> Any:
    """As `sum`, with everything added counted."""
    if isinstance(start, str):
        raise TypeError("sum() can't sum strings")
    return functools.reduce(add, values, start)


def power(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() * max(right, 0))
    return left**right


def _check_bits(bits: int) -> None:
    if bits > _MOST_BITS:
        raise LimitExceeded(f"a number of more than {_MOST_BITS} bits")


def count_format(specification: str, value: Any) -> None:
    """Counts a conversion such as `%1000d` or `{:1000}` of a value."""
    weigh(value)
    for digits in "".join(char if char.isdecimal() else " " for char in specification).split():
        _few_digits(len(digits))
        spend_text(int(digits))
