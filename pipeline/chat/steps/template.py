"""A chat template whose loops skip the iterations that it knows.

A conversation is rendered as a whole and once for each answer, as the prompt that serving sends before it: most of that
is the same messages over and over. An iteration whose dependencies (see plan.py) are those of one that was run before
writes what that one wrote, and costs what it cost.
"""

from typing import Any

from pipeline.chat.limits import limited
from pipeline.chat.steps.environment import StepwiseEnvironment
from pipeline.chat.steps.memory import Loop, Memory, Run, current
from pipeline.chat.steps.plan import NotStepwise
from pipeline.chat.template import ChatTemplate
from pipeline.chat.traced import JoinedText, Traced
from pipeline.chat.traced_values import trace
from schemas.conversation import Conversation


class StepwiseTemplate:
    """Renders as `template` does."""

    def __init__(self, template: ChatTemplate) -> None:
        self.template = template
        environment = StepwiseEnvironment(template.clock)
        try:
            self._compiled = environment.from_string(template.source)
        except NotStepwise:
            self._compiled = None
        self.loops = [Loop(plan) for plan in environment.plans]
        self._last: tuple[Any, Any, Memory] = (None, None, Memory())

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
            run = Run(self.loops, self._memory(conversation, context), budget)
            token = current.set(run)
            try:
                for part in self._compiled.root_render_func(self._compiled.new_context(context)):
                    run.parts.append(part)
                run.keep_trail()
            finally:
                current.reset(token)
            return JoinedText(run.parts, budget.output)

    def _memory(self, conversation: Conversation, context: dict[str, Any]) -> Memory:
        """Of this conversation. Threads may share the template: what is kept is read and replaced as one."""
        row, first = self.template.traced_row(conversation), context["messages"][0]
        known_row, known_first, memory = self._last
        if row is not known_row or first is not known_first:
            memory = Memory()
            self._last = row, first, memory
        return memory
