"""What the iterations of a conversation's renderings wrote, and whether one of them would be the same again."""

from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from itertools import takewhile
from operator import is_
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, NamedTuple, TypeAlias

from jinja2.runtime import LoopContext, Macro, Undefined
from jinja2.utils import missing

from pipeline.chat import limits
from pipeline.chat.environment import SafeDict, SafeNamespace
from pipeline.chat.steps.plan import Attribute, Plan
from pipeline.chat.traced import Traced, concat
from pipeline.chat.traced_values import TracedDict, TracedFloat, TracedInt, TracedList

TRIED, HITS_IN = 256, 8
"""After so many iterations, a loop is looked up for as long as one in so many was known."""

Key: TypeAlias = tuple[Any, ...]
Spaces: TypeAlias = Sequence[Any]
Outlook: TypeAlias = tuple[LoopContext, Sequence[Any], Sequence[Any]]
"""The loop, the lists that its guards look up, and the variables that they read as they are."""
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
    """A loop whose iterations can be known. What it reads and writes are attributes of its namespaces, each with the
    number of the namespace; `tried` and `known` count iterations."""

    def __init__(self, plan: Plan) -> None:
        numbers = {name: number for number, name in enumerate(plan.spaces)}

        def numbered(attributes: Iterable[Attribute]) -> tuple[tuple[int, str], ...]:
            return tuple((numbers[name], attribute) for name, attribute in attributes)

        self.reads, self.writes = numbered(plan.reads), numbered(plan.writes)
        self.ahead, self.back = (plan.outlook.ahead, plan.outlook.back) if plan.outlook else (0, 0)
        self.outlook_reads = numbered(plan.outlook.reads) if plan.outlook else ()
        self.thresholds = numbered(plan.outlook.thresholds) if plan.outlook else ()
        self.tried = self.known = 0

    @property
    def pays(self) -> bool:
        return self.tried < TRIED or self.known * HITS_IN >= self.tried


class Trail(NamedTuple):
    """The iterations of one run of a loop, from its first on; None for one that did not come to its end."""

    key: Key
    lists: Sequence[Sequence[Any]]
    thresholds: tuple[Any, ...]
    kept: Any
    written: list[Written | None]


class Memory:
    """Of the renderings of one conversation."""

    def __init__(self) -> None:
        self.written: dict[Key, Written] = {}
        self.trails: dict[Key, Trail] = {}


class Run:
    """A rendering under way. `parts` are the pieces that were taken so far."""

    def __init__(self, loops: Sequence[Loop], memory: Memory, budget: limits.Budget) -> None:
        self.parts: list[str] = []
        self._loops = loops
        self._memory = memory
        self._budget = budget
        self._open: tuple[Loop, Key, Any, int, int] | None = None
        self._trail: Trail | None = None
        self._idle: tuple[Any, int] = (None, 0)

    def looks_up(self, number: int) -> bool:
        return self._loops[number].pays

    def is_idle(self, context: LoopContext, flag: Any) -> bool:
        """Whether what is left of a loop does nothing. The first idle iteration is run, and shows what each costs."""
        if flag:
            return False
        idle, before = self._idle
        if idle is not context:
            self._idle = context, self._budget.left
            return False
        limits.spend((before - self._budget.left) * (context.length - context.index0))
        return True

    def begin(self, number: int, values: Any, spaces: Spaces, outlook: Outlook | None) -> bool:
        """Whether the iteration has to be run; otherwise what it and some that follow it write is written."""
        self._open = None
        loop = self._loops[number]
        if outlook is not None and outlook[0].index0 == 0:
            self._start_trail(number, loop, spaces, outlook)
        trail = None if outlook is None else self._trail
        if values is None:
            self._trail = None
            return True
        try:
            read = _read(loop.reads, spaces)
            key = (number, *map(fingerprint, values), *map(fingerprint, read))
        except NotSettled:
            self._trail = None
            return True
        loop.tried += 1
        written = self._memory.written.get(key)
        if trail is not None:
            trail.written.append(written)
        if written is None:
            self._open = loop, key, (values, read), len(self.parts), self._budget.left
            return True
        loop.known += 1
        self._write([written], loop, spaces)
        if trail is not None and outlook is not None and outlook[0].index0 == loop.back:
            self._follow(trail, loop, spaces, outlook[0])
        return False

    def _write(self, iterations: Sequence[Written], loop: Loop, spaces: Spaces) -> None:
        limits.spend(sum(written.cost for written in iterations))
        self.parts += [written.text for written in iterations]
        for (space, attribute), value in zip(loop.writes, iterations[-1].values, strict=True):
            if value is not missing:
                spaces[space][attribute] = value

    def _start_trail(self, number: int, loop: Loop, spaces: Spaces, outlook: Outlook) -> None:
        self.keep_trail()
        _, lists, names = outlook
        try:
            read = _read(loop.outlook_reads, spaces)
            key = (number, *map(fingerprint, names), *map(fingerprint, read))
            self._trail = Trail(key, lists, _read(loop.thresholds, spaces), (names, read), [])
        except NotSettled:
            self._trail = None

    def keep_trail(self) -> None:
        """The longest one is kept."""
        trail, self._trail = self._trail, None
        if trail is not None:
            known = self._memory.trails.get(trail.key)
            if known is None or len(known.written) < len(trail.written):
                self._memory.trails[trail.key] = trail

    def _follow(self, trail: Trail, loop: Loop, spaces: Spaces, context: LoopContext) -> None:
        """Go where the longest trail went that began as this one: as far as no guard can tell them apart."""
        known = self._memory.trails.get(trail.key)
        start = len(trail.written)
        if known is None or None in trail.written or known.written[:start] != trail.written:
            return
        stop = min([*map(_common_length, known.lists, trail.lists)]) - loop.ahead
        for pair in zip(known.thresholds, trail.thresholds, strict=True):
            if pair[0] != pair[1]:
                stop = min(stop, *(value - 1 if type(value) is int else 0 for value in pair))
        iterations = list(takewhile(lambda written: written is not None, known.written[start:stop]))
        if iterations:
            self._write(iterations, loop, spaces)
            trail.written.extend(iterations)
            limits.spend(len(iterations))
            for _ in iterations:
                next(context)

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
        self._memory.written[key] = written = Written(text, values, cost, kept)
        if self._trail is not None:
            self._trail.written[-1] = written


def _common_length(one: Any, other: Any) -> int:
    """So many items, from the first on, are the same."""
    if type(one) is not list or type(other) is not list:
        return 0
    return next((n for n, same in enumerate(map(is_, one, other)) if not same), min(len(one), len(other)))


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


def begin(number: int, values: Any, spaces: Spaces, outlook: Outlook | None) -> bool:
    run = current.get()
    return run is None or run.begin(number, values, spaces, outlook)


def is_idle(context: LoopContext, flag: Any) -> bool:
    run = current.get()
    return run is not None and run.is_idle(context, flag)


def end(spaces: Spaces) -> None:
    run = current.get()
    if run is not None:
        run.end(spaces)
