"""The shapes of one structure: a tree of tests whose leaves are programs."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from pipeline.chat.replay.expressions import Call, Getter, Leaves, Text, compile_plain, compile_traced
from pipeline.chat.replay.recorder import NotReplayable
from pipeline.chat.replay.symbols import Derived, Piece
from pipeline.chat.traced import Origin, Run, Traced, concat


class Program:
    """What the template writes, piece after piece."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._parts: list[Traced | tuple[Getter, Origin | None]] = [_part(piece) for piece in pieces]

    def __len__(self) -> int:
        return len(self._parts)

    def run(self, leaves: Leaves) -> Traced:
        parts: list[str] = []
        for part in self._parts:
            if isinstance(part, Traced):
                parts.append(part)
                continue
            get, origin = part
            text = get(leaves)
            parts.append(text if isinstance(text, Traced) else Traced(text, (Run(len(text), origin),)))
        return concat(parts)


def _part(piece: Piece) -> Traced | tuple[Getter, Origin | None]:
    if isinstance(piece, Text):
        return piece.traced()
    return (compile_traced if piece.mixed else compile_plain)(piece.expression), piece.origin


class Branch:
    """A test, and where each of its outcomes so far leads."""

    __slots__ = ("get", "outcomes", "test")

    def __init__(self, test: Call) -> None:
        self.test = test
        self.get = compile_plain(test)
        self.outcomes: dict[Any, Node] = {}


Node: TypeAlias = Branch | Program


class Tree:
    def __init__(self) -> None:
        self._root: Node | None = None

    def find(self, leaves: Leaves) -> Program | None:
        """The program for a row; None where no row answered the tests as this one does."""
        node = self._root
        while isinstance(node, Branch):
            node = node.outcomes.get(node.get(leaves))
        return node

    def add(self, answers: Mapping[Call, Any], program: Program) -> None:
        """Raises NotReplayable where the template asked another question after the same answers."""
        nodes: list[Node] = [*map(Branch, answers), program]
        for node, outcome, following in zip(nodes, answers.values(), nodes[1:], strict=False):
            assert isinstance(node, Branch)
            node.outcomes[outcome] = following
        if self._root is None:
            self._root = nodes[0]
            return
        known = self._root
        for node, outcome in zip(nodes, answers.values(), strict=False):
            if not (isinstance(known, Branch) and isinstance(node, Branch) and known.test == node.test):
                raise NotReplayable("the template asks differently after the same answers")
            if outcome not in known.outcomes:
                known.outcomes[outcome] = node.outcomes[outcome]
                return
            known = known.outcomes[outcome]
        raise NotReplayable("the template writes differently after the same answers")
