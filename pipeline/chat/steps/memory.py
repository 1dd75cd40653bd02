"""What the iterations of a conversation's renderings wrote, and whether one of them would be the same again."""

from collections.abc import Sequence
from itertools import takewhile
from operator import is_
from typing import Any, NamedTuple

from jinja2.runtime import LoopContext
from jinja2.utils import missing

from pipeline.chat import limits
from pipeline.chat.replay.structure import View
from pipeline.chat.steps.fingerprints import (
    Key,
    Loop,
    NotSettled,
    Outlook,
    Spaces,
    fingerprint,
    fingerprints,
    read_attributes,
)
from pipeline.chat.steps.lessons import Lessons, Missed, shape_of
from pipeline.chat.traced import Traced, concat, size_of


class Written(NamedTuple):
    """What an iteration wrote and set, what it cost, by how much its pieces counted more than its text does, and the
    values by which it is told apart."""

    text: Traced
    values: tuple[Any, ...]
    cost: int
    joined: int
    kept: Any


class Trail(NamedTuple):
    """The iterations of one run of a loop, from its first on; None for one that did not come to its end."""

    key: Key
    lists: Sequence[Sequence[Any]]
    thresholds: tuple[Any, ...]
    kept: Any
    written: list[Written | None]


class Memory:
    """Of the renderings of one conversation. `messages` has the number of each message by the id of what the template
    sees of it, and `sizes` the characters of each."""

    def __init__(
        self, view: View | None, views: Sequence[Any], sizes: Sequence[int], begun: "Memory | None" = None
    ) -> None:
        """`begun`: that of the conversation's beginning."""
        self.view = view
        self._views = views  # an id is theirs for as long as they are kept
        self.messages = {} if view is None else {id(each): index for index, each in enumerate(views)}
        self.sizes = sizes
        self.written: dict[Key, Written] = begun.written if begun else {}
        self.trails: dict[Key, Trail] = begun.trails if begun else {}


class Open(NamedTuple):
    """An iteration that is being run: the number of its first piece, and the budget that was left before it. `lesson`
    is its shape, with the numbers of its loop and message, where that is to be learnt."""

    loop: Loop
    key: Key
    kept: Any
    start: int
    budget: int
    lesson: tuple[Key, int, int] | None
    trail: Trail | None


class Run:
    """A rendering under way. `parts` are the pieces that were taken so far."""

    def __init__(self, loops: Sequence[Loop], memory: Memory, lessons: Lessons, budget: limits.Budget) -> None:
        self.parts: list[str] = []
        self.missed: list[Missed] = []
        self.joined = 0  # by how much the pieces of the template counted more than `parts` do
        self._lessons = lessons
        self._loops = loops
        self._memory = memory
        self._budget = budget
        self._open: Open | None = None
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
            read = read_attributes(loop.reads, spaces)
            key = (number, fingerprint(values[0]), *fingerprints(values[1:]), *fingerprints(read))
        except NotSettled:
            self._trail = None
            return True
        loop.tried += 1
        written, lesson = self._memory.written.get(key), None
        if written is None:
            written, lesson = self._replay(number, key, (values, read))
        if trail is not None:
            trail.written.append(written)
        if written is None:
            self._open = Open(loop, key, (values, read), len(self.parts), self._budget.left, lesson, trail)
            return True
        loop.known += 1
        self._write([written], loop, spaces)
        if trail is not None and outlook is not None and outlook[0].index0 == loop.back:
            self._follow(trail, loop, spaces, outlook[0])
        return False

    def _replay(self, number: int, key: Key, kept: Any) -> tuple[Written | None, tuple[Key, int, int] | None]:
        """What an iteration over a message writes, where that was learnt; otherwise what there is to learn."""
        memory = self._memory
        message = memory.messages.get(id(kept[0][0]))
        if message is None or memory.view is None:
            return None, None
        shape = shape_of(number, memory.view, message, key[2:])
        if shape is None:
            return None, None
        replayed = self._lessons.replay(shape, memory.view, message)
        if replayed is None:
            return None, (shape, number, message)
        text, program = replayed
        written = Written(text, program.values, program.cost + memory.sizes[message], program.joined, kept)
        memory.written[key] = written
        return written, None

    def _write(self, iterations: Sequence[Written], loop: Loop, spaces: Spaces) -> None:
        limits.spend(sum(written.cost for written in iterations))
        self.joined += sum(written.joined for written in iterations)
        self.parts += [written.text for written in iterations]
        for (space, attribute), value in zip(loop.writes, iterations[-1].values, strict=True):
            if value is not missing:
                spaces[space][attribute] = value

    def _start_trail(self, number: int, loop: Loop, spaces: Spaces, outlook: Outlook) -> None:
        self.keep_trail()
        _, lists, names = outlook
        try:
            read = read_attributes(loop.outlook_reads, spaces)
            key = (number, *fingerprints(names), *fingerprints(read))
            self._trail = Trail(key, lists, read_attributes(loop.thresholds, spaces), (names, read), [])
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
        iterations = [
            written for written in takewhile(bool, known.written[start : max(start, stop)]) if written is not None
        ]
        if iterations:
            self._write(iterations, loop, spaces)
            trail.written.extend(iterations)
            limits.spend(len(iterations))
            loop.tried += len(iterations)
            loop.known += len(iterations)
            for _ in iterations:
                next(context)

    def end(self, spaces: Spaces) -> None:
        """The iteration has been run to its end."""
        if self._open is None:
            return
        begun, self._open = self._open, None
        pieces = self.parts[begun.start :]
        text = concat(pieces)
        self.parts[begun.start :] = [text]
        cost, joined = begun.budget - self._budget.left, sum(map(size_of, pieces)) - size_of(text)
        self.joined += joined
        try:
            values = read_attributes(begun.loop.writes, spaces)
            fingerprints(values)
        except NotSettled:
            return
        self._memory.written[begun.key] = written = Written(text, values, cost, joined, begun.kept)
        if begun.trail is not None:
            begun.trail.written[-1] = written
        if begun.lesson is not None:
            self.missed.append(Missed(*begun.lesson, text, values, cost, joined))


def _common_length(one: Any, other: Any) -> int:
    """So many items, from the first on, are the same."""
    if type(one) is not list or type(other) is not list:
        return 0
    return next((n for n, same in enumerate(map(is_, one, other)) if not same), min(len(one), len(other)))
