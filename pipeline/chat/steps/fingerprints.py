"""By what the iterations of a loop are told apart."""

from collections.abc import Iterable, Sequence
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, NamedTuple, TypeAlias

from jinja2.runtime import LoopContext, Macro, Undefined
from jinja2.utils import missing

from pipeline.chat.environment import SafeDict, SafeNamespace
from pipeline.chat.replay.recorder import NotReplayable
from pipeline.chat.steps.outlook import Attribute
from pipeline.chat.steps.plan import Plan
from pipeline.chat.traced import Traced
from pipeline.chat.traced_values import TracedDict, TracedFloat, TracedInt, TracedList

TRIED, HITS_IN = 256, 8
"""After so many iterations, a loop is looked up for as long as one in so many was known."""

Key: TypeAlias = tuple[Any, ...]
Spaces: TypeAlias = Sequence[Any]
Outlook: TypeAlias = tuple[LoopContext, Sequence[Any], Sequence[Any]]
"""The loop, the lists that its guards look up, and the variables that they read as they are."""
_FIXED = (TracedDict, TracedList, TracedInt, TracedFloat, float, SafeDict)
_FUNCTIONS = (BuiltinFunctionType, MethodType)


class NotSettled(NotReplayable):
    """A value that may change while it stays the same object."""


class Portable(NamedTuple):
    """The fingerprint of a value that other conversations have, too."""

    kind: str
    value: Any


_SIMPLE = frozenset((str, bool, int, type(None)))
PORTABLE = frozenset((str, bool, int, type(None), type, Portable))


def fingerprint(value: Any) -> Any:
    """Equal for values that a template cannot tell apart. It is of a PORTABLE type if it means the same in another
    conversation; otherwise the value has to be kept for as long as it is. Raises NotSettled."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if kind is int:
        return Portable("int", value)
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
    if kind is FunctionType or kind is type:  # of the environment's, the same for all renderings
        return Portable("function", value)
    if kind is Macro:
        return Portable("macro", (value.name, value._func.__code__.co_firstlineno))
    if value is missing:
        return Portable("missing", None)
    if isinstance(value, _FUNCTIONS):
        return "object", id(value)
    raise NotSettled(kind.__name__)


def fingerprints(values: Sequence[Any]) -> tuple[Any, ...]:
    """Of several values. Raises NotSettled."""
    kinds = tuple(map(type, values))
    if _SIMPLE.issuperset(kinds):
        return kinds + tuple(values)
    return tuple(map(fingerprint, values))


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


def read_attributes(attributes: Sequence[tuple[int, str]], spaces: Spaces) -> tuple[Any, ...]:
    """Attributes of namespaces. Raises NotSettled for what is no namespace."""
    if not attributes:
        return ()
    if any(type(space) is not SafeNamespace for space in spaces):
        raise NotSettled
    return tuple(_attributes(spaces[space]).get(attribute, missing) for space, attribute in attributes)


def _attributes(space: SafeNamespace) -> dict[str, Any]:
    found: dict[str, Any] = object.__getattribute__(space, "_Namespace__attrs")
    return found
