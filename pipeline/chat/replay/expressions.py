"""What a template computes from a row, written down so that it can be computed again from another row.

An expression is a leaf of the row, template text, or a listed operation on expressions and constants. It is compiled
for one of two domains: plain values (for tests, and for pieces that are one field's text as a whole), or traced ones
(where text of several origins went through an operation). Both use the same table; the traced domain runs the very
methods of traced.py that the slow path runs.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import add, contains, eq, ge, getitem, gt, le, lt, sub
from typing import Any, TypeAlias

from pipeline.chat import filters
from pipeline.chat.environment import printed
from pipeline.chat.json_text import Style, write_json
from pipeline.chat.traced import Origin, Run, Traced, concat
from pipeline.chat.traced_values import trace

Leaves: TypeAlias = Sequence[Sequence[Any]]
"""The leaves of each message, and at the end those of the row beside its messages, in the order the template gets
them."""
Getter: TypeAlias = Callable[[Leaves], Any]


@dataclass(frozen=True, slots=True)
class Leaf:
    """`group` is the index of a message, -1 for the row beside its messages."""

    group: int
    number: int
    origin: Origin


@dataclass(frozen=True, slots=True)
class Text:
    """Text that is the same for every row; it has an origin where it belongs to a value of the row."""

    text: str
    origin: Origin | None = None

    def traced(self) -> Traced:
        return Traced(self.text, (Run(len(self.text), self.origin),))


@dataclass(frozen=True, slots=True)
class Call:
    """`args` are expressions or constants."""

    op: str
    args: tuple[Any, ...]


Expression: TypeAlias = Leaf | Text | Call


@dataclass(frozen=True, slots=True)
class Kind:
    """What a value of the row is: its type, or the JSON text of a value that holds no text and no number."""

    name: str


TEXT, INTEGER, FLOAT, MAPPING, LIST = map(Kind, ("text", "integer", "float", "mapping", "list"))


def kind_of(value: Any) -> Kind:
    if isinstance(value, str):
        return TEXT
    if value is None or isinstance(value, bool):
        return Kind(json.dumps(value))
    if isinstance(value, int | float):
        return INTEGER if isinstance(value, int) else FLOAT
    if isinstance(value, Mapping):
        return MAPPING if value else Kind("{}")
    return LIST if any(has_leaf(item) for item in value) else Kind(json.dumps(value))


def has_leaf(value: Any) -> bool:
    """Whether a text, a key or a number is in a JSON value."""
    if isinstance(value, list):
        return any(map(has_leaf, value))
    return value is not None and not isinstance(value, bool) and value != {}


KEEPING = ("strip", "lstrip", "rstrip", "removeprefix", "removesuffix", "upper", "lower", "capitalize", "title")
"""String methods that make one field's text of one field's text."""
MIXING = ("replace", "ljust", "rjust", "center")
"""String methods whose result may hold template text."""
SPLITTING = ("split", "rsplit", "splitlines", "partition", "rpartition")
"""String methods that give pieces."""
ASKING = (
    *("startswith", "endswith", "isalnum", "isalpha", "isascii", "isdecimal", "isdigit", "isidentifier", "islower"),
    *("isnumeric", "isprintable", "isspace", "istitle", "isupper"),
)
"""String methods that answer yes or no."""
COMPARISONS = {"eq": eq, "lt": lt, "le": le, "gt": gt, "ge": ge}
MIXING_FILTERS = {name: filters.TRACED[name] for name in ("title", "indent", "escape", "e", "forceescape")}


def _mapping(*items: Any) -> dict[Any, Any]:
    return dict(zip(items[::2], items[1::2], strict=True))


def _json(value: Any, style: Style) -> str:
    return json.dumps(
        value,
        ensure_ascii=style.ensure_ascii,
        indent=style.indent,
        separators=(style.comma, style.colon),
        sort_keys=style.sort_keys,
    )


_COMMON: dict[str, Callable[..., Any]] = {
    **COMPARISONS,
    "add": add,
    "subtract": sub,
    "contains": contains,
    "truth": bool,
    "length": len,
    "kind": kind_of,
    "keys": tuple,
    "item": getitem,
    "has_item": lambda value, index: -len(value) <= index < len(value),
    "slice": lambda value, start, stop: value[start:stop],
    "text": str,
    "mapping": _mapping,
    "list": lambda *items: list(items),
    **{f"{name} filter": function for name, function in MIXING_FILTERS.items()},
}
PLAIN: dict[str, Callable[..., Any]] = {
    **{name: getattr(str, name) for name in (*KEEPING, *MIXING, *SPLITTING, *ASKING)},
    **_COMMON,
    "concat": lambda *parts: "".join(parts),
    "printed": str,
    "tojson": _json,
}
TRACED: dict[str, Callable[..., Any]] = {
    **{name: getattr(Traced, name) for name in (*KEEPING, *MIXING, *SPLITTING, *ASKING)},
    **_COMMON,
    "concat": lambda *parts: concat(parts),
    "printed": printed,
    "tojson": write_json,
}


def compile_plain(expression: Expression) -> Getter:
    """A function from a row's leaves to the expression's value, without origins."""
    return _compile(expression, PLAIN, _plain_leaf, lambda text: text.text)


def compile_traced(expression: Expression) -> Getter:
    """A function from a row's leaves to the expression's value, every character with its origin."""
    return _compile(expression, TRACED, _traced_leaf, Text.traced)


def _plain_leaf(leaf: Leaf) -> Getter:
    group, number = leaf.group, leaf.number
    return lambda leaves: leaves[group][number]


def _traced_leaf(leaf: Leaf) -> Getter:
    group, number, origin = leaf.group, leaf.number, leaf.origin
    return lambda leaves: trace(leaves[group][number], origin)


def _compile(
    expression: Any,
    ops: Mapping[str, Callable[..., Any]],
    leaf: Callable[[Leaf], Getter],
    text: Callable[[Text], Any],
) -> Getter:
    if isinstance(expression, Leaf):
        return leaf(expression)
    if not isinstance(expression, Call):
        constant = text(expression) if isinstance(expression, Text) else expression
        return lambda leaves: constant
    function = ops[expression.op]
    if not expression.args:
        return lambda leaves: function()
    first, *others = expression.args
    get = _compile(first, ops, leaf, text)
    if any(isinstance(arg, Leaf | Call | Text) for arg in others):
        getters = [_compile(arg, ops, leaf, text) for arg in others]
        return lambda leaves: function(get(leaves), *[getter(leaves) for getter in getters])
    return lambda leaves: function(get(leaves), *others)


def is_of_row(expression: Any) -> bool:
    """Whether it depends on the row beside its messages, and on nothing else that rows differ in."""
    leaves = list(_leaves(expression))
    return bool(leaves) and all(leaf.group < 0 for leaf in leaves)


def _leaves(expression: Any) -> Iterator[Leaf]:
    if isinstance(expression, Leaf):
        yield expression
    elif isinstance(expression, Call):
        for arg in expression.args:
            yield from _leaves(arg)
