"""Strings that stand for an expression while a template is recorded.

Underneath, such a string is a mark that no row has. Whatever reads it past the methods here (a C function, a filter
that is not listed) gets the mark instead of the text, and a mark in the result says that the recording is of no use.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, SupportsIndex, TypeAlias

from pipeline.chat.costs import PRODUCT_METHODS
from pipeline.chat.replay import expressions
from pipeline.chat.replay.expressions import Call, Expression, Leaf, Text
from pipeline.chat.replay.recorder import NotReplayable, Recorder
from pipeline.chat.traced import GENERATION_END, GENERATION_START, Origin, Run, Traced, concat, runs_of

MARK = "\U000fdead"


@dataclass(frozen=True, slots=True)
class Derived:
    """Text that follows from the row. Its characters are all of `origin`, unless it is `mixed`."""

    expression: Expression
    origin: Origin | None
    mixed: bool = False


Piece: TypeAlias = Text | Derived


class SymbolicText(Traced):
    """`_pieces` end to end; names with an underscore, as templates cannot read those."""

    __slots__ = ("_pieces", "_recorder")
    _recorder: Recorder
    _pieces: tuple[Piece, ...]

    def __new__(cls, recorder: Recorder, pieces: Iterable[Piece]) -> "SymbolicText":
        made: Any = super().__new__(cls, MARK)
        made._recorder, made._pieces = recorder, tuple(pieces)
        made.runs = tuple(Run(1, piece.origin) for piece in made._pieces) or (Run(0, None),)
        return made  # type: ignore[no-any-return]

    @property
    def _expression(self) -> Expression:
        if len(self._pieces) == 1:
            return lift_piece(self._pieces[0])
        return Call("concat", tuple(map(lift_piece, self._pieces)))

    @property
    def plain(self) -> str:
        raise NotReplayable("its characters are looked at")

    def _derive(self, op: str, args: Iterable[Any], *, mixed: bool = False) -> "SymbolicText":
        given = tuple(map(lift, args))
        if op in PRODUCT_METHODS and any(isinstance(arg, Leaf | Call) for arg in given):
            raise NotReplayable("its time is that of one text times another, which the template counts")
        expression = Call(op, (self._expression, *given))
        piece = self._pieces[0] if len(self._pieces) == 1 else None
        if piece is None or mixed or (isinstance(piece, Derived) and piece.mixed):
            return SymbolicText(self._recorder, (Derived(expression, None, True),))
        return SymbolicText(self._recorder, (Derived(expression, piece.origin),))

    def _decide(self, op: str, *args: Any) -> Any:
        return self._recorder.decide(op, self._expression, *map(lift, args))

    def __bool__(self) -> bool:
        if any(isinstance(piece, Text) and piece.text for piece in self._pieces):
            return True
        return bool(self._decide("truth"))

    def __eq__(self, other: object) -> bool:
        return bool(self._decide("eq", other)) if isinstance(other, str) else NotImplemented

    def __ne__(self, other: object) -> bool:
        return not self == other if isinstance(other, str) else NotImplemented

    def __lt__(self, other: str) -> bool:
        return bool(self._decide("lt", other)) if isinstance(other, str) else NotImplemented

    def __le__(self, other: str) -> bool:
        return bool(self._decide("le", other)) if isinstance(other, str) else NotImplemented

    def __gt__(self, other: str) -> bool:
        return bool(self._decide("gt", other)) if isinstance(other, str) else NotImplemented

    def __ge__(self, other: str) -> bool:
        return bool(self._decide("ge", other)) if isinstance(other, str) else NotImplemented

    def __contains__(self, item: object) -> bool:
        return bool(self._decide("contains", item))

    def __hash__(self) -> int:
        raise NotReplayable("a table is looked up by it")

    def __len__(self) -> int:
        raise NotReplayable("its characters are counted")

    def __iter__(self) -> Iterator[Traced]:
        raise NotReplayable("its characters are gone through")
        yield self  # `is iterable` makes an iterator and does not use it

    def __repr__(self) -> str:
        raise NotReplayable("Python's notation of it is printed")

    def __format__(self, specification: str) -> str:
        raise NotReplayable("it is formatted")

    def __add__(self, other: str) -> Traced:
        return join_parts((self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: str) -> Traced:
        return join_parts((other, self)) if isinstance(other, str) else NotImplemented

    def __mul__(self, times: SupportsIndex) -> Traced:
        raise NotReplayable("it is repeated")

    __rmul__ = __mul__

    def __getitem__(self, key: Any) -> Traced:
        if not isinstance(key, slice):
            if not isinstance(key, int):
                raise TypeError("string indices must be integers")
            if not self._decide("has_item", key):
                raise IndexError("string index out of range")
            return self._derive("item", (key,))
        if key.step not in (None, 1):
            raise NotReplayable("its characters are gone through")
        return self._derive("slice", (key.start, key.stop))

    def join(self, values: Iterable[str], /) -> Traced:
        return separate(self, values)


def _keeping(name: str) -> Callable[..., SymbolicText]:
    return lambda self, *args: self._derive(name, args)


def _mixing(name: str) -> Callable[..., SymbolicText]:
    return lambda self, *args: self._derive(name, args, mixed=True)


def _asking(name: str) -> Callable[..., bool]:
    return lambda self, *args: bool(self._decide(name, *args))


def add_methods(names: Iterable[str], make: Callable[[str], Callable[..., Any]]) -> None:
    for name in names:
        method = make(name)
        method.__name__ = name
        setattr(SymbolicText, name, method)


add_methods(expressions.KEEPING, _keeping)
add_methods(expressions.MIXING, _mixing)
add_methods(expressions.ASKING, _asking)


def lift_piece(piece: Piece) -> Expression:
    return piece if isinstance(piece, Text) else piece.expression


def lift(value: Any) -> Any:
    """The expression or constant that a template's value is. Raises NotReplayable."""
    if isinstance(value, str):
        if type(value) is str:
            return value
        if isinstance(value, SymbolicText):
            return value._expression
        texts = tuple(texts_of(value))
        return texts[0] if len(texts) == 1 else Call("concat", texts)
    if value is None or type(value) in (bool, int, float):
        return value
    if type(value) is dict:
        return Call("mapping", tuple(lift(item) for pair in value.items() for item in pair))
    if type(value) is list:
        return Call("list", tuple(map(lift, value)))
    if type(value) is tuple and all(type(item) is str for item in value):
        return value
    expression = getattr(value, "_expression", None)
    if expression is None:
        raise NotReplayable(f"a {type(value).__name__} is used with it")
    return expression


def texts_of(text: str) -> Iterator[Text]:
    """A constant string, run by run."""
    position = 0
    for run in runs_of(text):
        if run.length or run.origin is not None:
            yield Text(str.__getitem__(text, slice(position, position + run.length)), run.origin)
        position += run.length


def constant(recorder: Recorder, text: str) -> SymbolicText:
    return text if isinstance(text, SymbolicText) else SymbolicText(recorder, texts_of(text))


def join_parts(parts: Iterable[Any]) -> Traced:
    """`concat`, whatever the parts are; neighbouring constants of one origin become one."""
    parts = list(parts)
    recorder = next((part._recorder for part in parts if isinstance(part, SymbolicText)), None)
    if recorder is None:
        return concat(parts)
    pieces: list[Piece] = []
    for part in parts:
        for piece in part._pieces if isinstance(part, SymbolicText) else texts_of(part):
            last = pieces[-1] if pieces else None
            if isinstance(last, Text) and isinstance(piece, Text) and _merge(last.origin, piece.origin):
                pieces[-1] = Text(last.text + piece.text, last.origin)
            else:
                pieces.append(piece)
    return SymbolicText(recorder, pieces)


def _merge(one: Origin | None, other: Origin | None) -> bool:
    return one == other and one not in (GENERATION_START, GENERATION_END)


def separate(separator: str, values: Iterable[str]) -> Traced:
    """`separator.join(values)`."""
    parts: list[str] = []
    for value in values:
        parts += [separator, value] if parts else [value]
    return join_parts(parts)
