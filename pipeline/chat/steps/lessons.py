"""What iterations over messages write, learnt from some of them for all others of their shape.

The shape of an iteration is the structure of its message and of the row beside the messages (see replay/structure.py)
with the values of its guards; the tests that the template makes on the message's values choose a program. So a
conversation of a shape that never comes again is put together of iterations whose shapes come all the time.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from pipeline.chat.limits import CHARACTERS_A_RUN, LimitExceeded
from pipeline.chat.replay.expressions import Call, Leaf, Leaves, Text
from pipeline.chat.replay.learnt import FREE_LESSONS, Learnt
from pipeline.chat.replay.recorder import NotReplayable
from pipeline.chat.replay.structure import UNKNOWN, View
from pipeline.chat.replay.symbols import MARK, Derived, Piece
from pipeline.chat.replay.tree import MOST_WRITTEN, Program, Stretch, Written
from pipeline.chat.steps.fingerprints import PORTABLE, Key
from pipeline.chat.traced import Field, Origin, Run, Traced, make_origin, make_run

MOST_STEPS = 100_000
MOST_ONCE_SEEN = 10_000
MOST_MESSAGES = 40
"""Lessons are given on no longer conversations."""
REPLAYS_PER_LESSON = 8

Answers: TypeAlias = dict[Call, Any]


class IterationProgram(Program):
    """Writes what iterations of a shape write, of which `missed` was one."""

    def __init__(self, pieces: Sequence[Piece], stretches: dict[tuple[Piece, ...], Stretch], missed: "Missed") -> None:
        super().__init__(pieces, stretches)
        self.values, self.cost, self.joined = missed.values, missed.cost, missed.joined

    def write(self, leaves: Leaves, row: int, message: int) -> Traced:
        """As `run`, of message `message`. Raises LimitExceeded for a long text."""
        texts: list[str] = []
        runs: list[Run] = []
        length, origin = 0, None  # of the run that is growing
        for part in self._parts:
            own: Iterable[tuple[int, Origin | None]]
            if isinstance(part, Written):
                text: str = part.get(leaves)
                own = text.runs if isinstance(text, Traced) else ((len(text), part.origin),)
            else:
                text = part.write(leaves, row) if isinstance(part, Stretch) else part
                own = text.runs
            texts.append(text)
            for more, its in own:
                moved = its if its is None or its.message < 0 else make_origin((message, its.field, its.part))
                if moved == origin and (moved is None or moved.field <= Field.NONE):
                    length += more
                elif more or moved is not None:
                    if length or origin is not None:
                        runs.append(make_run((length, origin)))
                    length, origin = more, moved
        if length or origin is not None:
            runs.append(make_run((length, origin)))
        joined = "".join(texts)
        if len(joined) + CHARACTERS_A_RUN * len(runs) > MOST_WRITTEN:
            raise LimitExceeded("a long text is the template's to write")
        return Traced(joined, tuple(runs) or (Run(0, None),))


class Missed(NamedTuple):
    """An iteration that the template had to run, and what it wrote."""

    shape: Key
    number: int
    message: int
    text: Traced
    values: tuple[Any, ...]
    cost: int
    joined: int


class Recorded(NamedTuple):
    """The tests that an iteration made, with their outcomes, what it wrote and what it set."""

    shape: Key | None
    answers: Answers
    pieces: tuple[Piece, ...]
    values: tuple[Any, ...]


def shape_of(number: int, view: View, message: int, fingerprints: Sequence[Any]) -> Key | None:
    """`fingerprints` are those of the guards and of what else the iteration reads. None where it depends on an object
    of its conversation."""
    structure = view.structure[1 + message], view.structure[-1]
    portable = PORTABLE.issuperset(map(type, fingerprints))
    return (number, *structure, *fingerprints) if portable and UNKNOWN not in structure else None


class Lessons:
    """Of a template. `refusals` counts why iterations were not learnt."""

    def __init__(self) -> None:
        self.refusals: Counter[str] = Counter()
        self.given = 0
        self._shapes: dict[Key, Learnt] = {}
        self._once_seen: set[Key] = set()
        self._stretches: dict[tuple[Piece, ...], Stretch] = {}
        self._steps = 0

    def replay(self, shape: Key, view: View, message: int) -> tuple[Traced, IterationProgram] | None:
        """What an iteration writes; None for what was not learnt."""
        known = self._shapes.get(shape)
        if known is None:
            return None
        leaves = view.leaves[message], view.leaves[-1]
        try:
            program = known.tree.find(leaves, view.row)
            if not isinstance(program, IterationProgram):
                return None
            text = program.write(leaves, view.row, message)
        except Exception:  # the template will say what is wrong with the row
            return None
        known.replays += 1
        return text, program

    def wants(self, shape: Key) -> bool:
        """A shape is worth a lesson when it comes a second time."""
        known = self._shapes.get(shape)
        if known is not None:
            return known.learns and self._steps < MOST_STEPS
        if shape in self._once_seen:
            return True
        if len(self._once_seen) >= MOST_ONCE_SEEN:
            self._once_seen.clear()
        self._once_seen.add(shape)
        return False

    def learn(self, missed: Iterable[Missed], recorded: Mapping[tuple[int, int], Recorded], view: View) -> None:
        self.given += 1
        for each in missed:
            shape = self._shapes.setdefault(each.shape, Learnt(REPLAYS_PER_LESSON))
            shape.lessons += 1
            try:
                self._learn(shape, each, recorded.get((each.number, each.message)), view)
            except (NotReplayable, RecursionError, LimitExceeded) as refusal:
                shape.lessons += FREE_LESSONS
                self.refusals[str(refusal)] += 1

    def refuse(self, missed: Iterable[Missed], reason: str) -> None:
        self.refusals[reason] += 1
        for each in missed:
            self._shapes.setdefault(each.shape, Learnt(REPLAYS_PER_LESSON)).lessons += FREE_LESSONS

    def _learn(self, shape: Learnt, missed: Missed, recorded: Recorded | None, view: View) -> None:
        leaves = view.leaves[missed.message], view.leaves[-1]
        if recorded is None or recorded.shape != missed.shape:
            raise NotReplayable("the iteration was not recorded")
        if shape.tree.find(leaves, view.row) is not None:  # from an iteration before, in the same lesson
            return
        answers = {_relocate(test, missed.message): answer for test, answer in recorded.answers.items()}
        pieces = [_relocate_piece(piece, missed.message) for piece in recorded.pieces]
        program = IterationProgram(pieces, self._stretches, missed)
        written = program.write(leaves, view.row, missed.message)
        if (written.plain, written.runs, recorded.values) != (missed.text.plain, missed.text.runs, missed.values):
            raise NotReplayable("the recording does not write what the template writes")
        shape.tree.add(answers, program)
        self._steps += len(answers) + len(pieces)


def _of_message(origin: Origin | None, message: int) -> Origin | None:
    return origin if origin is None or origin.message < 0 else Origin(message, origin.field, origin.part)


def _relocate(expression: Any, message: int) -> Any:
    """An expression on message `message` as one on message 0. Raises NotReplayable where it looks at another one."""
    if isinstance(expression, Leaf):
        if expression.group not in (message, -1):
            raise NotReplayable("it looks at another message")
        return Leaf(min(expression.group, 0), expression.number, _home(expression.origin, message))
    if isinstance(expression, Call):
        return Call(expression.op, tuple(_relocate(arg, message) for arg in expression.args))
    if isinstance(expression, Text):
        return Text(expression.text, _home(expression.origin, message))
    return expression


def _relocate_piece(piece: Piece, message: int) -> Piece:
    if isinstance(piece, Derived):
        return Derived(_relocate(piece.expression, message), _home(piece.origin, message), piece.mixed)
    if MARK in piece.text:
        raise NotReplayable("text of the row is used past the listed operations")
    return Text(piece.text, _home(piece.origin, message))


def _home(origin: Any, message: int) -> Any:
    if origin is not None and origin.message not in (message, -1):
        raise NotReplayable("it writes text of another message")
    return _of_message(origin, 0)
