"""What one iteration of a template's loop depends on, read off its syntax.

A template can change nothing but its own variables and the attributes of namespaces, and what it sets in a loop is gone
after the iteration. So what an iteration writes follows from the item, from the attributes of `loop` and of namespaces
that it reads, and from the variables of the template around it. Most of those come in conditions that name nothing of
the item (`loop.index0 > ns.last_query_index`, `messages[loop.index0 + 1].role != "tool"`): such an expression stands
for all that it reads.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from jinja2 import nodes

from pipeline.chat.steps.outlook import Attribute, Outlook, index_base, look_out

_OF_LOOPS = frozenset(["index", "index0", "revindex", "revindex0", "first", "last", "length", "previtem", "nextitem"])
_STATEFUL = ("cycler", "joiner", "namespace", "self")
_PURE = (
    nodes.Getattr,
    nodes.Getitem,
    nodes.Compare,
    nodes.Operand,
    nodes.And,
    nodes.Or,
    nodes.Not,
    nodes.Add,
    nodes.Sub,
)
_PURE_FILTERS = ("length", "count", "first", "last")
_LAZY_FILTERS = ["batch", "items", "map", "reject", "rejectattr", "reverse", "select", "selectattr", "slice", "unique"]
_USING_UP = ["first", "groupby", "join", "list", "max", "min", "sort", "sum"]
"""Filters that leave nothing of an iterator that could be asked again."""
_SCOPES = (nodes.With, nodes.CallBlock, nodes.FilterBlock, nodes.AssignBlock, nodes.Scope, nodes.Macro)


class NotStepwise(Exception):
    """An iteration may depend on more than can be told."""


@dataclass
class Plan:
    """`guards` are expressions of which an iteration needs the value alone, `names` the variables around the loop that
    it reads as they are, `reads` and `writes` the attributes of namespaces; what is written counts as read. Once `flag`
    is false, an iteration does nothing, and leaves it so."""

    guards: list[nodes.Expr] = field(default_factory=list)
    names: dict[str, None] = field(default_factory=dict)
    reads: dict[Attribute, None] = field(default_factory=dict)
    writes: tuple[Attribute, ...] = ()
    outlook: Outlook | None = None
    flag: nodes.Expr | None = None

    @property
    def spaces(self) -> list[str]:
        guarded = [*self.outlook.reads, *self.outlook.thresholds] if self.outlook else []
        return list(dict.fromkeys(name for name, _ in (*self.reads, *guarded)))

    def look_out(self, items: nodes.Node, spaces: Collection[str]) -> None:
        """Of the loop over `items`."""
        outlook = look_out(items, self.guards, spaces)
        if outlook is not None and not outlook.lists.keys() & self.names.keys():
            outlook.names |= self.names
            outlook.reads |= self.reads
            outlook.thresholds = {each: None for each in outlook.thresholds if each not in outlook.reads}
            self.outlook = outlook

    def keep_spaces(self, is_kept: Callable[[str], bool]) -> None:
        """The others are made within the iteration, or within a macro."""
        self.reads = {each: None for each in self.reads if is_kept(each[0])}
        self.writes = tuple(each for each in self.writes if is_kept(each[0]))
        if self.outlook is not None:
            self.outlook.reads = {each: None for each in self.outlook.reads if is_kept(each[0])}
            self.outlook.thresholds = {each: None for each in self.outlook.thresholds if is_kept(each[0])}


class Planner:
    """Plans the loops of a template."""

    def __init__(self, template: nodes.Template) -> None:
        """Raises NotStepwise where namespaces may be known by several names, or something else keeps a state."""
        self._macros = list(template.find_all(nodes.Macro))
        self._spaces = _find_spaces(template)
        if next(template.find_all(nodes.Block), None) is not None:
            raise NotStepwise("it has blocks")
        if _keeps_iterators(template):
            raise NotStepwise("it keeps an iterator, which a look into it changes")

    def plan(self, loop: nodes.For) -> Plan:
        """Raises NotStepwise."""
        targets = {name.name for name in _names(loop.target)} | _set_first(loop.body)
        if loop.recursive or loop.test or loop.else_:
            raise NotStepwise("its loop is more than a loop")
        inside = [*loop.body, *self._macros]
        writes = dict.fromkeys((found.name, found.attr) for node in inside for found in node.find_all(nodes.NSRef))
        if not self._spaces.issuperset(name for name, _ in writes):
            raise NotStepwise("it sets attributes of what may be no namespace")
        stored = {name.name for node in [loop.target, *loop.body] for name in _names(node) if name.ctx != "load"}
        walk = _Walk(Plan(reads=dict(writes), writes=tuple(writes)), self._spaces, stored)
        for statement in loop.body:
            walk.visit(statement, inner=False, looping=False)
        for target in targets:
            walk.plan.names.pop(target, None)
        for macro in self._macros:
            of_macro = _Walk(Plan(), self._spaces, stored)
            of_macro.visit(macro, inner=True, looping=False)
            given = {argument.name for argument in macro.args}
            walk.plan.names |= {name: None for name in of_macro.plan.names if name not in given}
            walk.plan.reads |= of_macro.plan.reads
        walk.plan.look_out(loop.iter, self._spaces)
        walk.plan.flag = self._find_flag(loop.body)
        return walk.plan

    def _find_flag(self, body: list[nodes.Node]) -> nodes.Expr | None:
        """Of a loop that sets names to numbers that follow from its index, and does all else if the flag and something
        else is true."""
        *numbers, last = body
        if not all(map(_sets_number, numbers)) or not isinstance(last, nodes.If) or last.elif_ or last.else_:
            return None
        test: nodes.Node = last.test
        while isinstance(test, nodes.And):
            test = test.left
        if isinstance(test, nodes.Getattr) and isinstance(test.node, nodes.Name) and test.node.name in self._spaces:
            return test
        return None


def _set_first(body: Sequence[nodes.Node]) -> set[str]:
    """The names that every iteration sets before it reads them."""
    found: set[str] = set()
    read: set[str] = set()
    for statement in body:
        target = statement.target if isinstance(statement, nodes.Assign | nodes.AssignBlock) else None
        read |= {name.name for name in _names(statement) if name.ctx == "load"}
        if isinstance(target, nodes.Name) and target.name not in read:
            found.add(target.name)
    return found


def _sets_number(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Assign) and isinstance(node.target, nodes.Name) and _is_place(node.node)


def _is_place(node: nodes.Node) -> bool:
    """Whether it is a sum of indices, lengths and numbers, which nothing can be wrong with."""
    if isinstance(node, nodes.Add | nodes.Sub):
        return _is_place(node.left) and _is_place(node.right)
    if isinstance(node, nodes.Filter):
        return node.name == "length" and isinstance(node.node, nodes.Name) and not node.args
    return index_base(node) is not None or (isinstance(node, nodes.Const) and type(node.value) is int)


def _find_spaces(template: nodes.Template) -> frozenset[str]:
    """The variables that hold a namespace, none of which can be known by another name."""
    names = list(_names(template))
    made = [
        assign.target.name
        for assign in template.find_all(nodes.Assign)
        if isinstance(assign.target, nodes.Name)
        and isinstance(assign.node, nodes.Call)
        and isinstance(assign.node.node, nodes.Name)
        and assign.node.node.name == "namespace"
    ]
    if sum(name.ctx == "load" and name.name in _STATEFUL for name in names) != len(made):
        raise NotStepwise("it keeps a state beside its namespaces")
    spaces = frozenset(made)
    looked_into = sum(
        isinstance(node.node, nodes.Name) and node.node.name in spaces for node in template.find_all(nodes.Getattr)
    )
    if looked_into != sum(name.ctx == "load" and name.name in spaces for name in names):
        raise NotStepwise("a namespace is handed on")
    return spaces


def _keeps_iterators(template: nodes.Template) -> bool:
    """Whether what a lazy filter gives may be asked more than once: it is neither used up at once nor a loop's own."""
    used = [each.node for each in template.find_all(nodes.Filter) if each.name in (*_LAZY_FILTERS, *_USING_UP)]
    used_up = {*map(id, used), *(id(loop.iter) for loop in template.find_all(nodes.For))}
    return any(id(each) not in used_up for each in template.find_all(nodes.Filter) if each.name in _LAZY_FILTERS)


def _names(node: nodes.Node) -> Iterator[nodes.Name]:
    if isinstance(node, nodes.Name):
        yield node
    yield from node.find_all(nodes.Name)


class _Walk:
    """`stored`: what the loop itself sets."""

    def __init__(self, plan: Plan, spaces: frozenset[str], stored: Iterable[str]) -> None:
        self.plan = plan
        self._spaces = spaces
        self._stored = frozenset(stored)

    def visit(self, node: nodes.Node, *, inner: bool, looping: bool) -> None:
        """`inner`: in a scope of its own, `looping`: where `loop` is an inner one's."""
        if not inner and isinstance(node, nodes.Expr) and not isinstance(node, nodes.Name) and self._is_closed(node):
            self._guard(node)
        elif isinstance(node, nodes.Name):
            self._name(node, looping=looping)
        elif isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name) and self._attribute(node, looping):
            return
        elif isinstance(node, nodes.For):
            self._for(node, inner=inner, looping=looping)
        else:
            inner = inner or isinstance(node, _SCOPES)
            for child in node.iter_child_nodes():
                self.visit(child, inner=inner, looping=looping)

    def _guard(self, node: nodes.Expr) -> None:
        if next(_names(node), None) is not None and node not in self.plan.guards:
            self.plan.guards.append(node)

    def _name(self, node: nodes.Name, *, looping: bool) -> None:
        if node.name == "loop" and not looping:
            raise NotStepwise("it hands its loop on")
        if node.ctx == "load":
            self.plan.names[node.name] = None

    def _attribute(self, node: nodes.Getattr, looping: bool) -> bool:
        """Whether it is one of a namespace, or of the loop."""
        assert isinstance(node.node, nodes.Name)
        name = node.node.name
        if name in self._spaces:
            self.plan.reads[name, node.attr] = None
        elif name == "loop" and not looping:
            if node.attr not in _OF_LOOPS:
                raise NotStepwise(f"it uses loop.{node.attr}")
            self._guard(node)
        return name in self._spaces or name == "loop"

    def _for(self, node: nodes.For, *, inner: bool, looping: bool) -> None:
        self.visit(node.iter, inner=inner, looping=looping)
        if node.recursive or node.else_:
            raise NotStepwise("it has a loop that is more than a loop")
        for child in [node.target, *node.body, *([node.test] if node.test else [])]:
            self.visit(child, inner=True, looping=True)

    def _is_closed(self, node: nodes.Node) -> bool:
        """Whether it can be computed before the iteration, and reads nothing that the iteration sets."""
        if isinstance(node, nodes.Const):
            return True
        if isinstance(node, nodes.Name):
            return node.ctx == "load" and node.name not in self._stored and node.name not in self._spaces
        if isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name):
            if node.node.name in self._spaces:
                own = (node.node.name, node.attr)
                return own not in self.plan.writes and node.node.name not in self._stored
            if node.node.name == "loop":
                return node.attr in _OF_LOOPS
        if isinstance(node, nodes.Filter):
            plain = node.name in _PURE_FILTERS and not (node.args or node.kwargs or node.dyn_args or node.dyn_kwargs)
            return plain and node.node is not None and self._is_closed(node.node)
        if isinstance(node, nodes.Test):
            return not (node.dyn_args or node.dyn_kwargs) and all(map(self._is_closed, node.iter_child_nodes()))
        return isinstance(node, _PURE) and all(map(self._is_closed, node.iter_child_nodes()))
