"""Numbers, lists and mappings that stand for an expression while a template is recorded.

What a JSON value holds is asked only where the template looks into it: `arguments | tojson` is one operation on one
leaf, whatever the arguments are.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from pipeline.chat.replay import expressions
from pipeline.chat.replay.expressions import FLOAT, INTEGER, LIST, MAPPING, TEXT, Call, Expression, Kind
from pipeline.chat.replay.recorder import NotReplayable, Recorder
from pipeline.chat.replay.symbols import Derived, SymbolicText, add_methods, lift
from pipeline.chat.traced import Origin, Run, Traced
from pipeline.chat.traced_values import TracedFloat, TracedInt


class SymbolicInt(TracedInt):
    """A number of the row, or (without an origin) one that was computed of it."""

    _recorder: Recorder
    _expression: Expression

    def traced(self) -> Traced:
        return SymbolicText(self._recorder, (Derived(Call("text", (self._expression,)), self.origin),))

    __str__ = traced


class SymbolicFloat(TracedFloat):
    """A number of the row."""

    _recorder: Recorder
    _expression: Expression

    def traced(self) -> Traced:
        return SymbolicText(self._recorder, (Derived(Call("text", (self._expression,)), self.origin),))

    __str__ = traced


SymbolicNumber: TypeAlias = SymbolicInt | SymbolicFloat


def make_number(recorder: Recorder, expression: Expression, origin: Origin | None, kind: Kind = INTEGER) -> Any:
    # Any origin may be None here, where TracedInt's own is never
    made: Any = SymbolicInt(0, origin) if kind == INTEGER else SymbolicFloat(0, origin)  # type: ignore[arg-type]
    made._recorder, made._expression = recorder, expression
    return made


def _compared(op: str) -> Callable[..., Any]:
    def compare(self: SymbolicNumber, other: object) -> Any:
        if not isinstance(other, int | float):
            return NotImplemented
        return bool(self._recorder.decide(op, self._expression, lift(other)))

    return compare


def _computed(op: str, *, swapped: bool = False) -> Callable[..., Any]:
    def compute(self: SymbolicNumber, other: object) -> Any:
        if not isinstance(self, SymbolicInt) or not isinstance(other, int):
            raise NotReplayable("it is computed with")
        args = (self._expression, lift(other))
        return make_number(self._recorder, Call(op, args[::-1] if swapped else args), None)

    return compute


def _refused(self: SymbolicNumber, *args: object) -> Any:
    raise NotReplayable("it is computed with")


def _differs(self: SymbolicNumber, other: object) -> Any:
    equal = self.__eq__(other)
    return equal if equal is NotImplemented else not equal


def _is_true(self: SymbolicNumber) -> bool:
    return bool(self._recorder.decide("truth", self._expression))


_REFUSED = """
mul rmul truediv rtruediv floordiv rfloordiv mod rmod divmod rdivmod pow rpow neg pos abs invert int float index
round trunc floor ceil hash format repr and rand or ror xor rxor lshift rlshift rshift rrshift
"""
for _type in (SymbolicInt, SymbolicFloat):
    for _name in _REFUSED.split():
        setattr(_type, f"__{_name}__", _refused)
    for _name in expressions.COMPARISONS:
        setattr(_type, f"__{_name}__", _compared(_name))
    for _name, _method in {"ne": _differs, "bool": _is_true}.items():
        setattr(_type, f"__{_name}__", _method)
    for _name, _op in {"add": "add", "sub": "subtract"}.items():
        setattr(_type, f"__{_name}__", _computed(_op))
        setattr(_type, f"__r{_name}__", _computed(_op, swapped=True))


class SymbolicList(list[Any]):
    """A list of the row's, or (`of_text`) the pieces of a string; empty underneath."""

    __slots__ = ("_expression", "_mixed", "_of_text", "_origin", "_recorder")

    def __init__(
        self,
        recorder: Recorder,
        expression: Expression,
        origin: Origin | None,
        *,
        of_text: bool = False,
        mixed: bool = False,
    ) -> None:
        self._recorder, self._expression, self._origin = recorder, expression, origin
        self._of_text, self._mixed = of_text, mixed

    def _item(self, index: int) -> Any:
        item = Call("item", (self._expression, index))
        if self._of_text:
            return SymbolicText(self._recorder, (Derived(item, self._origin, self._mixed),))
        return ask_kind(self._recorder, item, self._origin)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return list(self)[key]
        if type(key) is not int:
            raise NotReplayable("a list is looked up by it")
        if not self._recorder.decide("has_item", self._expression, key):
            raise IndexError("list index out of range")
        return self._item(key)

    def __iter__(self) -> Iterator[Any]:
        index = 0
        while self._recorder.decide("has_item", self._expression, index):
            yield self._item(index)
            index += 1

    def __reversed__(self) -> Iterator[Any]:
        return iter([*self][::-1])

    def __contains__(self, item: object) -> bool:
        return any(item == own for own in self)

    def __len__(self) -> int:
        return int(self._recorder.decide("length", self._expression))

    def __bool__(self) -> bool:
        return bool(self._recorder.decide("truth", self._expression))

    def _refuse(self, *args: object) -> Any:
        raise NotReplayable("a list of the row's is used as a whole")

    def __eq__(self, other: object) -> bool:
        return self._refuse() if isinstance(other, list) else NotImplemented

    __ne__ = __eq__
    __lt__ = __gt__ = __le__ = __ge__ = __add__ = __radd__ = __mul__ = __rmul__ = _refuse
    __repr__ = __str__ = __format__ = _refuse


class SymbolicMapping(dict[str, Any]):
    """A mapping of the row's that has a key; empty underneath. Its keys are constants once they were asked."""

    __slots__ = ("_expression", "_origin", "_recorder")
    _of_text = False

    def __init__(self, recorder: Recorder, expression: Expression, origin: Origin) -> None:
        self._recorder, self._expression, self._origin = recorder, expression, origin

    def keys(self) -> Any:
        names = self._recorder.decide("keys", self._expression)
        return [Traced(name, (Run(len(name), self._origin),)) for name in names]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __bool__(self) -> bool:
        return True

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def __getitem__(self, key: Any) -> Any:
        own = next((own for own in self.keys() if own == key), None)
        if own is None:
            raise KeyError(key)
        return ask_kind(self._recorder, Call("item", (self._expression, own.plain)), self._origin)

    def get(self, key: Any, default: Any = None) -> Any:
        try:
            return self[key]
        except KeyError:
            return default

    def values(self) -> Any:
        return [self[key] for key in self.keys()]

    def items(self) -> Any:
        return [(key, self[key]) for key in self.keys()]

    def _refuse(self, *args: object) -> Any:
        raise NotReplayable("a mapping of the row's is used as a whole")

    def __eq__(self, other: object) -> bool:
        return self._refuse() if isinstance(other, dict) else NotImplemented

    __ne__ = __eq__
    __or__ = __ror__ = _refuse
    __repr__ = __str__ = __format__ = _refuse


SYMBOLIC = (SymbolicText, SymbolicInt, SymbolicFloat, SymbolicList, SymbolicMapping)


def make_symbol(recorder: Recorder, kind: Kind, expression: Expression, origin: Origin) -> Any:
    """What stands for a value of that kind; the value itself where the kind says all."""
    if kind == TEXT:
        return SymbolicText(recorder, (Derived(expression, origin),))
    if kind in (INTEGER, FLOAT):
        return make_number(recorder, expression, origin, kind)
    if kind == LIST:
        return SymbolicList(recorder, expression, origin)
    return SymbolicMapping(recorder, expression, origin) if kind == MAPPING else json.loads(kind.name)


def ask_kind(recorder: Recorder, expression: Expression, origin: Origin | None) -> Any:
    assert origin is not None, "a JSON value is one of the row's"
    return make_symbol(recorder, recorder.decide("kind", expression), expression, origin)


def find_symbol(value: Any) -> Any:
    """The first symbol in a value, looking into plain containers; None where there is none."""
    if isinstance(value, SYMBOLIC):
        return value
    if isinstance(value, slice):
        value = (value.start, value.stop, value.step)
    if type(value) is dict:
        value = (*value.keys(), *value.values())
    if type(value) in (list, tuple):
        return next((symbol for symbol in map(find_symbol, value) if symbol is not None), None)
    return None


def _splitting(name: str) -> Callable[..., SymbolicList]:
    def split(self: SymbolicText, *args: Any) -> SymbolicList:
        (piece,) = self._derive(name, args)._pieces
        assert isinstance(piece, Derived)
        return SymbolicList(self._recorder, piece.expression, piece.origin, of_text=True, mixed=piece.mixed)

    return split


add_methods(expressions.SPLITTING, _splitting)
