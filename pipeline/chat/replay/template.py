"""A chat template that renders rows of a shape it has learnt without running Jinja.

The structure of a row (roles, the fields that each message has and of what kind they are) chooses a tree; the tests
that the template made on the row's values choose a program in it; the program writes the very text and runs that the
template would. Everything else goes through the template itself, and so does a sample of what is replayed.
"""

import zlib
from collections import Counter
from collections.abc import Sequence
from operator import is_
from typing import NamedTuple

from pipeline.chat.limits import LimitExceeded
from pipeline.chat.replay.learnt import FREE_LESSONS, Learnt
from pipeline.chat.replay.recorder import NotReplayable
from pipeline.chat.replay.recording import RecordingTemplate
from pipeline.chat.replay.structure import UNKNOWN, Structures, View
from pipeline.chat.replay.symbols import Piece
from pipeline.chat.replay.tree import Program, Stretch, Tree
from pipeline.chat.steps.template import StepwiseTemplate
from pipeline.chat.template import ChatTemplate, served_prompt
from pipeline.chat.traced import Traced
from schemas.conversation import Conversation, Message
from schemas.rejects import RejectRow

FIRST_CHECKED, CHECKED_ONE_IN = 32, 64
"""Replayed renderings of a block that are compared with the template's own: the first ones, then one in so many."""
STEPS_CHECKED_ONE_IN = 512
"""The same for renderings whose iterations were skipped or replayed (see chat/steps): there are many of them, and the
template itself has run the most of what is around the iterations."""
MOST_STEPS = 100_000
"""Tests and pieces that a process keeps, one or two kilobytes each."""
MOST_ONCE_SEEN = 10_000
MOST_MESSAGES = 40
"""Longer conversations hardly ever have the structure of another one, and a lesson of one is dear."""
REPLAYS_PER_LESSON = 4


class ReplayDiffers(AssertionError):
    """A replayed rendering is not the template's own."""


class Request(NamedTuple):
    conversation: Conversation
    add_generation_prompt: bool

    def render(self, template: ChatTemplate | StepwiseTemplate) -> Traced:
        return template.render(self.conversation, add_generation_prompt=self.add_generation_prompt)


class Whole(NamedTuple):
    """The conversation that was rendered last, whose prompts come next, and whether its shape came before."""

    messages: Sequence[Message]
    known: bool


class ReplayingTemplate:
    """Renders as `template` does. `replayed` and `rendered` count renderings, `refusals` why rows were not learnt."""

    def __init__(self, template: ChatTemplate) -> None:
        self.template = template
        self.replayed = self.rendered = 0
        self.refusals: Counter[str] = Counter()
        self._recording: RecordingTemplate | None = None
        self._structures = Structures(template)
        self.stepwise = StepwiseTemplate(template, self._structures)
        self._shapes: dict[tuple[int, ...], Learnt] = {}
        self._once_seen: set[tuple[int, ...]] = set()
        self._stretches: dict[tuple[Piece, ...], Stretch] = {}
        self._steps = 0
        self._unchecked = FIRST_CHECKED
        self._whole = Whole((), False)

    def start_block(self) -> None:
        """A new sample begins."""
        self._unchecked = FIRST_CHECKED

    def prompt(self, conversation: Conversation, index: int) -> Traced | None:
        return served_prompt(self.render, conversation, index)

    def render(self, conversation: Conversation, *, add_generation_prompt: bool = False) -> Traced:
        """Raises RejectRow where the template does, and ReplayDiffers."""
        request = Request(conversation, add_generation_prompt)
        whole = self._whole if add_generation_prompt and _begins(self._whole.messages, conversation.messages) else None
        if not add_generation_prompt:
            self._whole = Whole(conversation.messages, False)
        if len(conversation.messages) > MOST_MESSAGES or (whole and not whole.known):
            return self._step(request)
        try:
            view = self._structures.view(conversation, add_generation_prompt=add_generation_prompt)
            shapes = self._shapes.get(view.structure)
            program = shapes.tree.find(view.leaves, view.row) if shapes else None
            replayed = program.run(view.leaves, view.row) if program else None
        except Exception:  # the template will say what is wrong with the row
            return self._step(request)
        if shapes is None:
            shapes = self._meet(view.structure, again=whole is not None)
        if not add_generation_prompt:
            self._whole = Whole(conversation.messages, shapes is not None)
        if shapes is not None and replayed is not None:
            shapes.replays += 1
            self.replayed += 1
            self._check(replayed, request, CHECKED_ONE_IN)
            return replayed
        rendered = self._step(request)
        if shapes is not None and shapes.learns and self._steps < MOST_STEPS:
            self._learn(shapes, view, request, rendered)
        return rendered

    def tree(self, conversation: Conversation, *, add_generation_prompt: bool) -> Tree | None:
        """What is known of conversations of this structure; None where that is nothing."""
        view = self._structures.view(conversation, add_generation_prompt=add_generation_prompt)
        shapes = self._shapes.get(view.structure)
        return shapes.tree if shapes else None

    def teach(self, conversation: Conversation, *, add_generation_prompt: bool) -> None:
        """Learn how this conversation is rendered, though it comes for the first time. Raises RejectRow where the
        template refuses it."""
        request = Request(conversation, add_generation_prompt)
        view = self._structures.view(conversation, add_generation_prompt=add_generation_prompt)
        shapes = (
            None if UNKNOWN in view.structure else self._shapes.setdefault(view.structure, Learnt(REPLAYS_PER_LESSON))
        )
        if shapes and shapes.learns and self._steps < MOST_STEPS and shapes.tree.find(view.leaves, view.row) is None:
            self._learn(shapes, view, request, request.render(self.template))

    def _step(self, request: Request) -> Traced:
        rendered = request.render(self.stepwise)
        self.rendered += 1
        self._check(rendered, request, STEPS_CHECKED_ONE_IN)
        return rendered

    def _meet(self, structure: tuple[int, ...], *, again: bool) -> Learnt | None:
        """A structure is worth a lesson when it comes a second time; `again`: its conversation has."""
        if UNKNOWN in structure:
            return None
        if again or structure in self._once_seen:
            return self._shapes.setdefault(structure, Learnt(REPLAYS_PER_LESSON))
        if len(self._once_seen) >= MOST_ONCE_SEEN:
            self._once_seen.clear()
        self._once_seen.add(structure)
        return None

    def _learn(self, shapes: Learnt, view: View, request: Request, rendered: Traced) -> None:
        shapes.lessons += 1
        try:
            recording = self._recorder().record(*request)
            program = Program(recording.pieces, self._stretches)
            if difference(program.run(view.leaves, view.row), rendered):
                raise NotReplayable("the recording does not write what the template writes")
            shapes.tree.add(recording.answers, program)
            self._steps += len(recording.answers) + len(recording.pieces)
        except (NotReplayable, RecursionError, LimitExceeded) as refusal:
            shapes.lessons += FREE_LESSONS
            self.refusals[str(refusal)] += 1

    def _recorder(self) -> RecordingTemplate:
        if self._recording is None:
            self._recording = RecordingTemplate.of(self.template)
        return self._recording

    def _check(self, replayed: Traced, request: Request, one_in: int) -> None:
        """Compare a sample, chosen by its text so that it is the same whatever came before."""
        self._unchecked -= 1
        if self._unchecked < 0 and zlib.crc32(replayed.plain.encode("utf-8", "surrogatepass")) % one_in:
            return
        try:
            different = difference(replayed, request.render(self.template))
        except RejectRow as reject:
            different = f"the template refuses the row: {reject.reason}"
        if different:
            roles = " ".join(message.role for message in request.conversation.messages)
            tools = "no tools" if request.conversation.tools is None else "tools"
            raise ReplayDiffers(f"a replayed rendering differs from the template's: {different}; {roles}; {tools}")


def _begins(messages: Sequence[Message], beginning: Sequence[Message]) -> bool:
    """Whether messages begin with these very ones."""
    return 0 < len(beginning) <= len(messages) and all(map(is_, messages, beginning))


def difference(replayed: Traced, rendered: Traced) -> str:
    """Where two renderings differ, empty where they do not."""
    if replayed.plain != rendered.plain:
        return f"texts of {len(replayed)} and {len(rendered)} characters"
    if replayed.runs != rendered.runs:
        pairs = zip(replayed.runs, rendered.runs, strict=False)
        place = next((n for n, pair in enumerate(pairs) if pair[0] != pair[1]), -1)
        return f"run {place} of {len(replayed.runs)} and {len(rendered.runs)}"
    return ""
