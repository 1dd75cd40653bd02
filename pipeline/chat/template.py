"""A chat template, rendered with the origin of every character."""

import json
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Literal

import jinja2

from pipeline.chat.environment import TracingEnvironment
from pipeline.chat.traced import Field, Origin, Traced, concat, trace
from schemas.conversation import Message, ToolCall
from schemas.errors import ConfigError
from schemas.rejects import Reason, RejectRow

ToolArguments = Literal["object", "string"]


class ChatTemplate:
    """`variables` are what else the template sees: the tokenizer's special tokens, the config's template_kwargs."""

    def __init__(self, source: str, variables: Mapping[str, Any], clock: date) -> None:
        """Raises ConfigError for a template that does not compile."""
        self.source = source
        self.variables = dict(variables)
        self.environment = TracingEnvironment(clock)
        self.tool_arguments: ToolArguments = "object"
        self.null_content = False  # whether a message without content has a null, for templates that ask for one
        try:
            self._compiled = self.environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(f"the chat template does not compile: line {error.lineno}: {error.message}") from error

    def render(self, messages: Sequence[Message], tools: str | None, *, add_generation_prompt: bool = False) -> Traced:
        """Raises RejectRow where the template refuses the conversation or fails on it."""
        try:
            context = {
                **self.variables,
                "messages": [self._view(message, index) for index, message in enumerate(messages)],
                "tools": None if tools is None else trace(json.loads(tools), Origin(-1, Field.ROW)),
                "documents": None,
                "add_generation_prompt": add_generation_prompt,
            }
            return concat(self._compiled.root_render_func(self._compiled.new_context(context)))
        except Exception as error:  # a template may fail in any way on a row it was not written for
            raise RejectRow(Reason.TEMPLATE_ERROR, f"{type(error).__name__}: {error}"[:300]) from error

    def prompt(self, messages: Sequence[Message], tools: str | None, index: int) -> Traced | None:
        """What serving sends before message `index` is written; None where the template refuses that."""
        try:
            return self.render(messages[:index], tools, add_generation_prompt=True)
        except RejectRow:
            return None

    def _view(self, message: Message, index: int) -> dict[str, Any]:
        """The message as the template sees it: null fields are absent; reasoning under both of its names,
        as transformers gives it."""
        view: dict[str, Any] = {"role": message.role}
        if message.content is not None:
            view["content"] = trace(message.content, Origin(index, Field.BODY))
        elif self.null_content:
            view["content"] = None
        if message.reasoning_content is not None:
            reasoning = trace(message.reasoning_content, Origin(index, Field.REASONING))
            view["reasoning_content"] = view["thinking"] = reasoning
        if message.tool_calls:
            view["tool_calls"] = [self._call(call, index, part) for part, call in enumerate(message.tool_calls)]
        others = {"tool_call_id": message.tool_call_id, "name": message.name, **message.extra}
        for key, value in others.items():
            if value is not None:
                view[key] = trace(value, Origin(index, Field.OTHER))
        return view

    def _call(self, call: ToolCall, index: int, part: int) -> dict[str, Any]:
        given = json.loads(call.arguments) if self.tool_arguments == "object" else call.arguments
        arguments = trace(given, Origin(index, Field.TOOL_CALL, part))
        view: dict[str, Any] = {"type": "function"}
        if call.id is not None:
            view["id"] = trace(call.id, Origin(index, Field.CALL_ID, part))
        view["function"] = {"name": trace(call.name, Origin(index, Field.CALL_NAME, part)), "arguments": arguments}
        return view
