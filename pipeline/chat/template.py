"""A chat template, rendered with the origin of every character."""

import json
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from itertools import takewhile
from operator import is_
from typing import Any, TypeAlias

import jinja2

from pipeline.chat.environment import TracingEnvironment
from pipeline.chat.limits import Budget, limited
from pipeline.chat.traced import Field, Origin, Run, Traced, concat
from pipeline.chat.traced_values import TracedDict, trace
from pipeline.config import ToolArguments
from schemas.conversation import Conversation, Message, Span, ToolCall
from schemas.errors import ConfigError
from schemas.rejects import Reason, RejectRow

ROW = Origin(-1, Field.ROW)
OUTSIDE_SPANS = 1
"""The part of the characters of a message's content that its `spans` leave out."""

MOST_ROWS = 256
"""Distinct tool definitions that are kept parsed."""

Beside: TypeAlias = tuple[str | None, str | None, str | None]
"""The tool definitions, documents and variables of a row."""
MakeLeaf: TypeAlias = Callable[[Any, Origin], Any]


class ChatTemplate:
    """`variables` are what else the template sees: the tokenizer's special tokens, the config's template_kwargs.
    `tool_arguments` are objects for as long as nothing has chosen for `auto`; `null_content` and `asks_for_date` are
    what probes have shown of it."""

    make_environment: Callable[[date], TracingEnvironment] = TracingEnvironment

    def __init__(
        self, source: str, variables: Mapping[str, Any], clock: date, tool_arguments: ToolArguments = "auto"
    ) -> None:
        """Raises ConfigError for a template that does not compile."""
        self.source = source
        self.variables = dict(variables)
        self.clock = clock
        self.environment = self.make_environment(clock)
        self.tool_arguments: ToolArguments = tool_arguments
        self.null_content = False  # whether a message without content has a null, for templates that ask for one
        self.asks_for_date = False
        self._rows: dict[Beside, dict[str, Any]] = {}
        self._sizes: tuple[Sequence[Message], list[int]] = ((), [])
        self._views: tuple[Any, Sequence[Message], list[Any]] = (None, (), [])
        self._fixed_size = len(source) + len(repr(self.variables))
        try:
            self._compiled = self.environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(f"the chat template does not compile: line {error.lineno}: {error.message}") from error
        except Exception as error:  # Python's own compiler has limits on depth and length
            raise ConfigError(f"the chat template does not compile: {type(error).__name__}: {error}") from error

    def render(self, conversation: Conversation, *, add_generation_prompt: bool = False) -> Traced:
        """Raises RejectRow where the template refuses the conversation, fails on it, or does far too much."""
        rendering: Iterator[str] | None = None
        try:
            budget = self.budget(conversation)
            with limited(budget):
                rendering = self.run(self.context(conversation, trace, add_generation_prompt=add_generation_prompt))
                return concat(rendering, budget.output)
        except Exception as error:  # a template may fail in any way on a row it was not written for
            raise RejectRow(Reason.TEMPLATE_ERROR, f"{self._line(error, rendering)}{_said(error)}"[:300]) from error

    def context(
        self, conversation: Conversation, make_leaf: MakeLeaf, *, add_generation_prompt: bool
    ) -> dict[str, Any]:
        """What the template sees; `make_leaf` makes what stands for each value of the row."""
        if make_leaf is trace:
            row, messages = self.traced_row(conversation), self._traced_messages(conversation.messages)
        else:
            row = self.row_view(conversation, make_leaf)
            messages = [self.message_view(each, index, make_leaf) for index, each in enumerate(conversation.messages)]
        return {**self.variables, **row, "messages": messages, "add_generation_prompt": add_generation_prompt}

    def traced_row(self, conversation: Conversation) -> dict[str, Any]:
        """Kept for rows with the same tool definitions: templates cannot change what they are given."""
        beside = conversation.tools, conversation.documents, conversation.template_kwargs
        row = self._rows.get(beside)
        if row is None:
            if len(self._rows) >= MOST_ROWS:
                self._rows.clear()
            row = self._rows[beside] = self.row_view(conversation, trace)
        return row

    def _traced_messages(self, messages: Sequence[Message]) -> list[Any]:
        """Kept for the prompts of the same conversation, which come next. Threads may share it: what is kept is read
        and replaced as one."""
        settings = self.tool_arguments, self.null_content
        known_settings, known_messages, known = self._views
        if known_settings == settings and len(messages) <= len(known) and all(map(is_, messages, known_messages)):
            return known[: len(messages)]
        same = takewhile(bool, map(is_, messages, known_messages)) if known_settings == settings else ()
        views = known[: sum(same)]
        for index, message in enumerate(messages[len(views) :], len(views)):
            views.append(TracedDict(self.message_view(message, index, trace), None))
        self._views = settings, messages, views
        return views[:]

    def run(self, context: dict[str, Any]) -> Iterator[str]:
        """The pieces of the rendering, made as they are taken."""
        return self._compiled.root_render_func(self._compiled.new_context(context))

    def budget(self, conversation: Conversation) -> Budget:
        """What rendering a conversation may cost."""
        of_row = (conversation.tools, conversation.documents, conversation.template_kwargs)
        messages = conversation.messages
        characters = self._fixed_size + sum(len(text or "") for text in of_row) + sum(self.message_sizes(messages))
        return Budget(characters, len(messages) + sum([len(message.tool_calls) for message in messages]))

    def message_sizes(self, messages: Sequence[Message]) -> list[int]:
        """The characters of each message. Kept as what the template sees is."""
        known_messages, known = self._sizes
        if len(messages) <= len(known) and all(map(is_, messages, known_messages)):
            return known[: len(messages)]
        sizes = list(map(_size, messages))
        self._sizes = messages, sizes
        return sizes

    def _line(self, error: Exception, rendering: Iterator[str] | None) -> str:
        """Where in the template an error came up: its innermost line, or the line last written where the error is in
        what had been written."""
        frames = traceback.walk_tb(error.__traceback__)
        lines = [line for frame, line in frames if frame.f_code.co_filename == "<template>"]
        suspended = getattr(rendering, "gi_frame", None)
        if not lines and suspended is not None:
            lines = [suspended.f_lineno]
        return f"line {self._compiled.get_corresponding_lineno(lines[-1])}: " if lines else ""

    def prompt(self, conversation: Conversation, index: int) -> Traced | None:
        return served_prompt(self.render, conversation, index)

    def row_view(self, conversation: Conversation, make_leaf: MakeLeaf) -> dict[str, Any]:
        """What the template sees of the row beside its messages."""
        variables = json.loads(conversation.template_kwargs or "{}")
        view = {key: make_leaf(value, ROW) for key, value in variables.items()}
        for name, text in (("tools", conversation.tools), ("documents", conversation.documents)):
            view[name] = None if text is None else make_leaf(json.loads(text), ROW)
        return view

    def message_view(self, message: Message, index: int, make_leaf: MakeLeaf) -> dict[str, Any]:
        """The message as the template sees it: null fields are absent; reasoning under all of the names that servers
        give it."""
        view: dict[str, Any] = {"role": message.role}
        if message.content is not None:
            body = make_leaf(message.content, Origin(index, Field.BODY))
            view["content"] = body if message.spans is None else _with_spans(message.content, message.spans, index)
        elif self.null_content:
            view["content"] = None
        if message.reasoning_content is not None:
            reasoning = make_leaf(message.reasoning_content, Origin(index, Field.REASONING))
            view["reasoning_content"] = view["thinking"] = view["reasoning"] = reasoning
        if message.tool_calls:
            calls = enumerate(message.tool_calls)
            view["tool_calls"] = [self._call_view(call, index, part, make_leaf) for part, call in calls]
        others = {"tool_call_id": message.tool_call_id, "name": message.name, **message.extra}
        for key, value in others.items():
            if value is not None:
                view[key] = make_leaf(value, Origin(index, Field.OTHER))
        return view

    def _call_view(self, call: ToolCall, index: int, part: int, make_leaf: MakeLeaf) -> dict[str, Any]:
        view: dict[str, Any] = {"type": "function"}
        if call.id is not None:
            view["id"] = make_leaf(call.id, Origin(index, Field.CALL_ID, part))
        arguments = call.arguments if self.tool_arguments == "string" else json.loads(call.arguments)
        view["function"] = {
            "name": make_leaf(call.name, Origin(index, Field.CALL_NAME, part)),
            "arguments": make_leaf(arguments, Origin(index, Field.TOOL_CALL, part)),
        }
        return view


def served_prompt(render: Callable[..., Traced], conversation: Conversation, index: int) -> Traced | None:
    """What serving sends before message `index` is written; None where the template refuses that."""
    try:
        return render(replace(conversation, messages=conversation.messages[:index]), add_generation_prompt=True)
    except RejectRow:
        return None


def _with_spans(text: str, spans: Sequence[Span], index: int) -> Traced:
    """The content of message `index`: what lies between its spans is a part of its own."""
    inside, outside = Origin(index, Field.BODY), Origin(index, Field.BODY, OUTSIDE_SPANS)
    runs: list[Run] = []
    position = 0
    for begin, end in spans:
        runs += [Run(begin - position, outside), Run(end - begin, inside)]
        position = end
    runs.append(Run(len(text) - position, outside))
    return Traced(text, tuple(run for run in runs if run.length) or (Run(0, inside),))


def _size(message: Message) -> int:
    calls = sum(len(call.name) + len(call.arguments) for call in message.tool_calls)
    extra = len(repr(message.extra)) if message.extra else 0
    return len(message.content or "") + len(message.reasoning_content or "") + calls + extra


def _said(error: Exception) -> str:
    """The template's own words where it raised the error itself; strings and numbers by Python's names for them."""
    if type(error) is jinja2.TemplateError:
        return str(error)
    return re.sub(r"(?:pipeline[\w.]*\.)?Traced(\w*)", _plain_name, f"{type(error).__name__}: {error}")


def _plain_name(found: re.Match[str]) -> str:
    return found[1].lower() or "str"
