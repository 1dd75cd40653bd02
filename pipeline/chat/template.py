"""A chat template, rendered with the origin of every character."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any, Literal, TypeAlias

import jinja2

from pipeline.chat.environment import TracingEnvironment
from pipeline.chat.traced import Field, Origin, Traced, trace
from schemas.conversation import Message, ToolCall
from schemas.errors import ConfigError
from schemas.rejects import Reason, RejectRow

ToolArguments = Literal["object", "string"]
MakeLeaf: TypeAlias = Callable[[Any, Origin], Any]


class ChatTemplate:
    """`variables` are what else the template sees: the tokenizer's special tokens, the config's template_kwargs."""

    make_environment: Callable[[date], TracingEnvironment] = TracingEnvironment

    def __init__(self, source: str, variables: Mapping[str, Any], clock: date) -> None:
        """Raises ConfigError for a template that does not compile."""
        self.source = source
        self.variables = dict(variables)
        self.clock = clock
        self.environment = self.make_environment(clock)
        self.tool_arguments: ToolArguments = "object"
        try:
            self._compiled = self.environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(f"the chat template does not compile: line {error.lineno}: {error.message}") from error

    def render(self, messages: Sequence[Message], tools: str | None, *, add_generation_prompt: bool = False) -> Traced:
        """Raises RejectRow where the template refuses the conversation or fails on it."""
        try:
            return self.run(self.context(messages, tools, trace, add_generation_prompt=add_generation_prompt))
        except Exception as error:  # a template may fail in any way on a row it was not written for
            raise RejectRow(Reason.TEMPLATE_ERROR, f"{type(error).__name__}: {error}"[:300]) from error

    def context(
        self, messages: Sequence[Message], tools: str | None, make_leaf: MakeLeaf, *, add_generation_prompt: bool
    ) -> dict[str, Any]:
        """What the template sees; `make_leaf` makes what stands for each value of the row."""
        return {
            **self.variables,
            "messages": [self.message_view(message, index, make_leaf) for index, message in enumerate(messages)],
            **self.row_view(tools, make_leaf),
            "add_generation_prompt": add_generation_prompt,
        }

    def run(self, context: dict[str, Any]) -> Traced:
        return self.environment.concat(self._compiled.root_render_func(self._compiled.new_context(context)))

    def prompt(self, messages: Sequence[Message], tools: str | None, index: int) -> Traced | None:
        """What serving sends before message `index` is written; None where the template refuses that."""
        try:
            return self.render(messages[:index], tools, add_generation_prompt=True)
        except RejectRow:
            return None

    def row_view(self, tools: str | None, make_leaf: MakeLeaf) -> dict[str, Any]:
        """What the template sees of the row beside its messages."""
        return {
            "tools": None if tools is None else make_leaf(json.loads(tools), Origin(-1, Field.ROW)),
            "documents": None,
        }

    def message_view(self, message: Message, index: int, make_leaf: MakeLeaf) -> dict[str, Any]:
        """The message as the template sees it: null fields are absent; reasoning under both of its names,
        as transformers gives it."""
        view: dict[str, Any] = {"role": message.role}
        if message.content is not None:
            view["content"] = make_leaf(message.content, Origin(index, Field.BODY))
        if message.reasoning_content is not None:
            reasoning = make_leaf(message.reasoning_content, Origin(index, Field.REASONING))
            view["reasoning_content"] = view["thinking"] = reasoning
        if message.tool_calls:
            calls = enumerate(message.tool_calls)
            view["tool_calls"] = [self._call(call, Origin(index, Field.TOOL_CALL, n), make_leaf) for n, call in calls]
        others = {"tool_call_id": message.tool_call_id, "name": message.name, **message.extra}
        for key, value in others.items():
            if value is not None:
                view[key] = make_leaf(value, Origin(index, Field.OTHER))
        return view

    def _call(self, call: ToolCall, origin: Origin, make_leaf: MakeLeaf) -> dict[str, Any]:
        arguments = json.loads(call.arguments) if self.tool_arguments == "object" else call.arguments
        view: dict[str, Any] = {"type": "function"}
        if call.id is not None:
            view["id"] = make_leaf(call.id, origin)
        view["function"] = {"name": make_leaf(call.name, origin), "arguments": make_leaf(arguments, origin)}
        return view
