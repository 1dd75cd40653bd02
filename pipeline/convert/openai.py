"""Rows with message lists as OpenAI's API has them, or with a prompt and a completion."""

from dataclasses import dataclass, replace
from typing import Any

from pipeline.config import OpenAI
from pipeline.convert.converter import Converter, Row
from pipeline.convert.fields import require_column
from pipeline.convert.messages import OPENAI_ROLES, SPAN_KEYS, MessageReader, with_system
from pipeline.convert.row_context import make_conversation
from schemas.conversation import Conversation, Message, MessageRole


@dataclass(frozen=True, slots=True)
class ConvertOpenAI:
    settings: OpenAI
    reader: MessageReader

    def __call__(self, row: Row) -> Conversation:
        settings = self.settings
        messages = with_system(self._messages(row), settings.system)
        return make_conversation(messages, row, settings)

    def _messages(self, row: Row) -> tuple[Message, ...]:
        prompt, completion = self.settings.prompt_column, self.settings.completion_column
        if prompt is None or completion is None:
            return self.reader.read_list(require_column(row, self.settings.column), self.settings.column)
        given = (replace(message, train=False, weight=None) for message in self._side(row, prompt, "user"))
        return (*given, *self._side(row, completion, "assistant"))

    def _side(self, row: Row, column: str, role: MessageRole) -> tuple[Message, ...]:
        """A list of messages; a plain string is one message."""
        value: Any = require_column(row, column)
        return (Message(role, value),) if isinstance(value, str) else self.reader.read_list(value, column)


def make_openai(settings: OpenAI, *, loss_weights: bool) -> Converter:
    span_keys = (settings.span_key,) if settings.span_key else SPAN_KEYS
    return ConvertOpenAI(settings, MessageReader({**OPENAI_ROLES, **settings.roles}, loss_weights, span_keys=span_keys))
