"""A chat template whose loops skip the iterations that it knows.

A conversation is rendered as a whole and once for each answer, as the prompt that serving sends before it: most of that
is the same messages over and over. An iteration whose dependencies (see plan.py) are those of one that was run before
writes what that one wrote, and costs what it cost; one whose shape was learnt (see lessons.py) is replayed.
"""

import contextlib
from collections.abc import Sequence
from typing import Any

import jinja2

from pipeline.chat.joined_text import JoinedText
from pipeline.chat.limits import limited
from pipeline.chat.replay.recorder import NotReplayable
from pipeline.chat.replay.structure import Structures
from pipeline.chat.steps.current import current
from pipeline.chat.steps.environment import StepwiseEnvironment
from pipeline.chat.steps.fingerprints import Loop
from pipeline.chat.steps.lessons import MOST_MESSAGES, Lessons, Missed
from pipeline.chat.steps.memory import Memory, Run
from pipeline.chat.steps.plan import NotStepwise
from pipeline.chat.steps.recording import StepRecordingTemplate
from pipeline.chat.template import ChatTemplate
from pipeline.chat.traced import Traced
from pipeline.chat.traced_values import trace
from schemas.conversation import Conversation


class StepwiseTemplate:
    """Renders as `template` does. `stepped` counts the renderings that did not need it."""

    def __init__(self, template: ChatTemplate, structures: Structures) -> None:
        self.template = template
        self.lessons = Lessons()
        self.stepped = 0
        self._structures = structures
        environment = StepwiseEnvironment(template.clock)
        self._compiled: jinja2.Template | None = None
        with contextlib.suppress(NotStepwise):
            self._compiled = environment.from_string(template.source)
        self.loops = [Loop(plan) for plan in environment.plans]
        self._recording: StepRecordingTemplate | None = None
        self._last: tuple[Any, Any, Memory] = (None, None, Memory(None, (), ()))

    def render(self, conversation: Conversation, *, add_generation_prompt: bool = False) -> Traced:
        """Raises RejectRow where the template does."""
        if self._compiled is not None and self.loops:
            try:
                return self._render(conversation, add_generation_prompt=add_generation_prompt)
            except Exception:  # the template will say what is wrong with the row
                pass
        return self.template.render(conversation, add_generation_prompt=add_generation_prompt)

    def _render(self, conversation: Conversation, *, add_generation_prompt: bool) -> Traced:
        assert self._compiled is not None
        budget = self.template.budget(conversation)
        with limited(budget):
            context = self.template.context(conversation, trace, add_generation_prompt=add_generation_prompt)
            memory = self._memory(conversation, context["messages"])
            run = Run(self.loops, memory, self.lessons, budget)
            token = current.set(run)
            try:
                for part in self._compiled.root_render_func(self._compiled.new_context(context)):
                    run.parts.append(part)
                run.keep_trail()
            finally:
                current.reset(token)
            rendering = JoinedText(run.parts, budget.output - run.joined)
        self.stepped += 1
        if run.missed:
            self._teach(conversation, memory, run.missed, add_generation_prompt=add_generation_prompt)
        return rendering

    def _memory(self, conversation: Conversation, views: Sequence[Any]) -> Memory:
        """Of this conversation. Threads may share the template: what is kept is read and replaced as one."""
        row, first = self.template.traced_row(conversation), views[0]
        known_row, known_first, memory = self._last
        same = row is known_row and first is known_first
        if not same or len(views) > len(memory.sizes):
            view = self._structures.view(conversation, add_generation_prompt=False)
            begun = memory if same else None
            memory = Memory(view, views, self.template.message_sizes(conversation.messages), begun)
            self._last = row, first, memory
        return memory

    def _teach(
        self, conversation: Conversation, memory: Memory, missed: Sequence[Missed], *, add_generation_prompt: bool
    ) -> None:
        """A lesson on one iteration is a lesson on all of them."""
        wanted = [self.lessons.wants(each.shape) for each in missed]
        if not any(wanted) or memory.view is None or len(conversation.messages) > MOST_MESSAGES:
            return
        try:
            recorded = self._recorder().record_steps(
                conversation, memory.view, self.loops, add_generation_prompt=add_generation_prompt
            )
        except (NotReplayable, RecursionError) as refusal:
            self.lessons.refuse(missed, str(refusal))
        else:
            self.lessons.learn(missed, recorded, memory.view)

    def _recorder(self) -> StepRecordingTemplate:
        if self._recording is None:
            self._recording = StepRecordingTemplate.of(self.template)
        return self._recording
