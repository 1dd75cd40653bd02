"""How far the conditions of a loop look from an item.

Where they look at its neighbours alone, two runs of the loop over lists that begin with the same items do the same for
as long as neither list ends nearby.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from jinja2 import nodes

Attribute: TypeAlias = tuple[str, str]
"""The name of a namespace, and of an attribute of it."""


class _LooksAnywhere(Exception):
    """The place that a condition looks at does not follow from the index alone."""


@dataclass
class Outlook:
    """What the guards of a loop read, where each of them looks no further than `ahead` and `back` items from its own.
    `lists` are looked up at such places, the loop's own first; `names` and `reads` are read as they are; the index is
    compared with `thresholds`, and they are used for nothing else."""

    lists: dict[str, None]
    names: dict[str, None] = field(default_factory=dict)
    reads: dict[Attribute, None] = field(default_factory=dict)
    thresholds: dict[Attribute, None] = field(default_factory=dict)
    ahead: int = 0
    back: int = 0


def look_out(items: nodes.Node, guards: Iterable[nodes.Expr], spaces: Collection[str]) -> Outlook | None:
    """Of the guards of a loop over `items`; `spaces` are the names of namespaces. None for guards that may look
    anywhere."""
    if not isinstance(items, nodes.Name):
        return None
    outlook = Outlook({items.name: None})
    try:
        for guard in guards:
            _look(guard, outlook, spaces)
    except _LooksAnywhere:
        return None
    return outlook


def _look(node: nodes.Node, outlook: Outlook, spaces: Collection[str]) -> None:
    if isinstance(node, nodes.Compare) and _is_threshold(node, spaces):
        (operand,) = node.ops
        assert isinstance(operand.expr, nodes.Getattr)
        assert isinstance(operand.expr.node, nodes.Name)
        outlook.thresholds[operand.expr.node.name, operand.expr.attr] = None
    elif isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name):
        if node.node.name in spaces:
            outlook.reads[node.node.name, node.attr] = None
        elif node.node.name != "loop":
            outlook.names[node.node.name] = None
        elif node.attr in ("last", "nextitem"):
            outlook.ahead = max(outlook.ahead, 1)
        elif node.attr == "previtem":
            outlook.back = max(outlook.back, 1)
        elif node.attr not in ("first", "index", "index0"):
            raise _LooksAnywhere
    elif isinstance(node, nodes.Getitem) and isinstance(node.node, nodes.Name) and (places := _offset(node.arg)):
        outlook.lists[node.node.name] = None
        outlook.ahead = max(outlook.ahead, *places)
        outlook.back = max(outlook.back, *(-place for place in places))
    elif isinstance(node, nodes.Name):
        outlook.names[node.name] = None
    else:
        for child in node.iter_child_nodes():
            _look(child, outlook, spaces)


def _is_threshold(node: nodes.Compare, spaces: Collection[str]) -> bool:
    operand = node.ops[0]
    return (
        len(node.ops) == 1
        and operand.op in ("lt", "lteq", "gt", "gteq")
        and index_base(node.expr) is not None
        and isinstance(operand.expr, nodes.Getattr)
        and isinstance(operand.expr.node, nodes.Name)
        and operand.expr.node.name in spaces
    )


def index_base(node: nodes.Node) -> int | None:
    """Of `loop.index0` and `loop.index`."""
    if isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name) and node.node.name == "loop":
        return {"index0": 0, "index": 1}.get(node.attr)
    return None


def _offset(node: nodes.Node) -> tuple[int] | None:
    """How far from the item the place is that is looked up, where it is the index and a number."""
    base = index_base(node)
    if base is not None:
        return (base,)
    if isinstance(node, nodes.Add | nodes.Sub) and isinstance(node.right, nodes.Const):
        base, shift = index_base(node.left), node.right.value
        if base is not None and type(shift) is int:
            return (base + shift if isinstance(node, nodes.Add) else base - shift,)
    return None
