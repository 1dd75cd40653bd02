"""What the iterations of a conversation's renderings wrote, and whether one of them would be the same again."""

from collections.abc import Sequence
from contextvars import ContextVar
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, NamedTuple, TypeAlias

from jinja2.runtime import Macro, Undefined
from jinja2.utils import missing

from pipeline.chat import limits
from pipeline.chat.environment import SafeDict, SafeNamespace
from pipeline.chat.steps.plan import Plan
from pipeline.chat.traced import Traced, concat
from pipeline.chat.traced_values import TracedDict, TracedFloat, TracedInt, TracedList

TRIED, HITS_IN = 256, 8
"""After so many iterations, a loop is looked up for as long as one in so many was known."""

Key: TypeAlias = tuple[Any, ...]
Spaces: TypeAlias = Sequence[Any]
_FIXED = (TracedDict, TracedList, TracedInt, TracedFloat, float, SafeDict, type)
_FUNCTIONS = (BuiltinFunctionType, FunctionType, MethodType)


class NotSettled(Exception):
    """A value that may change while it stays the same object."""


def fingerprint(value: Any) -> Any:
    """Equal for values that a template cannot tell apart. Values that are told by what they are, not by what is in
    them, have to be kept for as long as it is. Raises NotSettled."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if kind is int:
        return "int", value
    if kind is Traced:
        return value.plain, value.runs
    if kind in _FIXED:
        return "object", id(value)
    if isinstance(value, Undefined):
        return kind
    if kind is list or kind is tuple:
        return kind, tuple(map(fingerprint, value))
    if kind is dict:
        return kind, tuple((fingerprint(key), fingerprint(item)) for key, item in value.items())
    if kind is Macro:
        return "macro", value._func.__code__
    if value is missing or isinstance(value, _FUNCTIONS):
        return "object", id(value)
    raise NotSettled(kind.__name__)


class Written(NamedTuple):
    """What an iteration wrote and set, what it cost, and the values by which it is told apart."""

    text: Traced
    values: tuple[Any, ...]
    cost: int
    kept: Any


class Loop:
    """A loop whose iterations can be known. `reads` and `writes` are attributes of its namespaces, each with the number
    of the namespace; `tried` and `known` count iterations."""

    def __init__(self, plan: Plan) -> None:
        numbers = {name: number for number, name in enumerate(plan.spaces)}
        self.reads = tuple((numbers[name], attribute) for name, attribute in plan.reads)
        self.writes = tuple((numbers[name], attribute) for name, attribute in plan.writes)
        self.tried = self.known = 0

    @property
    def pays(self) -> bool:
        return self.tried < TRIED or self.known * HITS_IN >= self.tried


Memory: TypeAlias = dict[Key, Written]
"""Of the renderings of one conversation."""


class Run:
    """A rendering under way. `parts` are the pieces that were taken so far."""

    def __init__(self, loops: Sequence[Loop], memory: Memory, budget: limits.Budget) -> None:
        self.parts: list[str] = []
        self._loops = loops
        self._memory = memory
        self._budget = budget
        self._open: tuple[Loop, Key, Any, int, int] | None = None

    def looks_up(self, number: int) -> bool:
        return self._loops[number].pays

    def begin(self, number: int, values: Any, spaces: Spaces) -> bool:
        """Whether the iteration has to be run; otherwise what it writes is written."""
        self._open = None
        if values is None:
            return True
        loop = self._loops[number]
        try:
            read = _read(loop.reads, spaces)
            key = (number, *map(fingerprint, values), *map(fingerprint, read))
        except NotSettled:
            return True
        loop.tried += 1
        written = self._memory.get(key)
        if written is None:
            self._open = loop, key, (values, read), len(self.parts), self._budget.left
            return True
        loop.known += 1
        limits.spend(written.cost)
        self.parts.append(written.text)
        for (space, attribute), value in zip(loop.writes, written.values, strict=True):
            if value is not missing:
                spaces[space][attribute] = value
        return False

    def end(self, spaces: Spaces) -> None:
        """The iteration has been run to its end."""
        if self._open is None:
            return
        loop, key, kept, start, before = self._open
        self._open = None
        cost = before - self._budget.left
        text = concat(self.parts[start:])
        self.parts[start:] = [text]
        try:
            values = _read(loop.writes, spaces)
            all(map(fingerprint, values))
        except NotSettled:
            return
        self._memory[key] = Written(text, values, cost, kept)


def _read(attributes: Sequence[tuple[int, str]], spaces: Spaces) -> tuple[Any, ...]:
    """Attributes of namespaces. Raises NotSettled for what is no namespace."""
    if any(type(space) is not SafeNamespace for space in spaces):
        raise NotSettled
    return tuple(_attributes(spaces[space]).get(attribute, missing) for space, attribute in attributes)


def _attributes(space: SafeNamespace) -> dict[str, Any]:
    found: dict[str, Any] = object.__getattribute__(space, "_Namespace__attrs")
    return found


current: ContextVar[Run | None] = ContextVar("run", default=None)


def looks_up(number: int) -> bool:
    run = current.get()
    return run is not None and run.looks_up(number)


def begin(number: int, values: Any, spaces: Spaces) -> bool:
    run = current.get()
    return run is None or run.begin(number, values, spaces)


def end(spaces: Spaces) -> None:
    run = current.get()
    if run is not None:
        run.end(spaces)
