"""The shapes of one structure: a tree of tests whose leaves are programs.

Tests and pieces that depend on nothing but the row beside its messages (its tool definitions) are answered and written
once per distinct value of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from pipeline.chat.replay.expressions import (
    Call,
    Getter,
    Leaves,
    Text,
    compile_plain,
    compile_traced,
    is_of_row,
)
from pipeline.chat.replay.recorder import NotReplayable
from pipeline.chat.replay.symbols import Derived, Piece
from pipeline.chat.traced import Origin, Run, Traced, concat

MOST_REMEMBERED = 256
"""Distinct values of the row beside its messages, whose answers and text are remembered."""
MOST_WRITTEN = 2_000_000
"""Characters of a replayed rendering: half of what a template may write for the smallest row (see limits.py). Longer
ones are left to the template, which counts all that it does, so that no row is refused for what came before it."""


class Written(NamedTuple):
    """A piece that follows from the row: its text comes traced, or is all of `origin`."""

    get: Getter
    origin: Origin | None

    def write(self, leaves: Leaves) -> Traced:
        text = self.get(leaves)
        return text if isinstance(text, Traced) else Traced(text, (Run(len(text), self.origin),))


class Stretch:
    """Neighbouring pieces that are the same for all rows with the same tool definitions."""

    def __init__(self, parts: Sequence[Traced | Written]) -> None:
        self._parts = parts
        self._known: dict[int, Traced] = {}

    def write(self, leaves: Leaves, row: int) -> Traced:
        text = self._known.get(row)
        if text is None:
            text = concat(part.write(leaves) if isinstance(part, Written) else part for part in self._parts)
            remember(self._known, row, text)
        return text


def remember(known: dict[int, Any], row: int, value: Any) -> None:
    if len(known) >= MOST_REMEMBERED:
        known.clear()
    known[row] = value


class Program:
    """What the template writes, piece after piece."""

    def __init__(self, pieces: Sequence[Piece], stretches: dict[tuple[Piece, ...], Stretch]) -> None:
        """Programs share their stretches through `stretches`."""
        self.pieces = tuple(pieces)
        self._parts: list[Traced | Written | Stretch] = []
        waiting: list[Piece] = []
        for piece in pieces:
            if isinstance(piece, Text) or is_of_row(piece.expression):
                waiting.append(piece)
                continue
            self._close(waiting, stretches)
            self._parts.append(_written(piece))
            waiting = []
        self._close(waiting, stretches)

    def _close(self, pieces: Sequence[Piece], stretches: dict[tuple[Piece, ...], Stretch]) -> None:
        if all(isinstance(piece, Text) for piece in pieces):
            self._parts.append(concat(piece.traced() for piece in pieces if isinstance(piece, Text)))
            return
        key = tuple(pieces)
        if key not in stretches:
            stretches[key] = Stretch([p.traced() if isinstance(p, Text) else _written(p) for p in pieces])
        self._parts.append(stretches[key])

    def run(self, leaves: Leaves, row: int) -> Traced:
        """`row` numbers the values of the row beside its messages. Raises LimitExceeded for a long rendering."""
        parts: list[Traced] = []
        for part in self._parts:
            if isinstance(part, Traced):
                parts.append(part)
            elif isinstance(part, Written):
                parts.append(part.write(leaves))
            else:
                parts.append(part.write(leaves, row))
        return concat(parts, MOST_WRITTEN)


def _written(piece: Derived) -> Written:
    return Written((compile_traced if piece.mixed else compile_plain)(piece.expression), piece.origin)


class Branch:
    """A test, and where each of its outcomes so far leads. `known`: where the tests from here on that depend on the
    row beside its messages alone lead, for each of its values."""

    __slots__ = ("get", "known", "of_row", "outcomes", "test")

    def __init__(self, test: Call) -> None:
        self.test = test
        self.get = compile_plain(test)
        self.of_row = is_of_row(test)
        self.outcomes: dict[Any, Node] = {}
        self.known: dict[int, Node] = {}


Node: TypeAlias = Branch | Program


class Tree:
    def __init__(self) -> None:
        self._start: dict[Any, Node] = {}

    @property
    def start(self) -> "Node | None":
        """The first test, or the program of a template that makes none; None where nothing was learnt."""
        return self._start.get(None)

    def find(self, leaves: Leaves, row: int) -> Program | None:
        """The program for a row; None where no row answered the tests as this one does."""
        node = self.start
        while isinstance(node, Branch):
            node = _past_row(node, leaves, row) if node.of_row else node.outcomes.get(node.get(leaves))
        return node

    def add(self, answers: Mapping[Call, Any], program: Program) -> None:
        """Raises NotReplayable where the template did otherwise after the same answers."""
        outcomes, last = self._start, None
        for test, outcome in answers.items():
            node = outcomes.get(last)
            if node is None:
                node = outcomes[last] = Branch(test)
            if not isinstance(node, Branch) or node.test != test:
                raise NotReplayable("the template asks differently after the same answers")
            outcomes, last = node.outcomes, outcome
        if last in outcomes:
            raise NotReplayable("the template writes differently after the same answers")
        outcomes[last] = program


def _past_row(start: Branch, leaves: Leaves, row: int) -> Node | None:
    """Where the tests on the row beside its messages lead from `start`."""
    found = start.known.get(row)
    if found is not None:
        return found
    node: Node | None = start
    while isinstance(node, Branch) and node.of_row:
        node = node.outcomes.get(node.get(leaves))
    if node is not None:
        remember(start.known, row, node)
    return node
