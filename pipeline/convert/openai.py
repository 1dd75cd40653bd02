"""Rows with message lists as OpenAI's API has them, or with a prompt and a completion."""

from dataclasses import dataclass, replace
from typing import Any

from pipeline.config import OpenAI
from pipeline.convert.converter import Converter, Row
from pipeline.convert.fields import require_column
from pipeline.convert.messages import OPENAI_ROLES, SPAN_KEYS, MessageReader, with_system
from pipeline.convert.plain import PlainMessage, PlainMessages, PlainRow, plain_row, with_plain_system
from pipeline.convert.plain_table import PlainTable, message_table
from pipeline.convert.row_context import has_no_context, list_columns, make_conversation
from pipeline.readers.table_rows import TableRows
from schemas.conversation import Conversation, Message, MessageRole


@dataclass(frozen=True, slots=True)
class ConvertOpenAI:
    settings: OpenAI
    reader: MessageReader
    plain_messages: PlainMessages

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

    def plain(self, row: Row) -> PlainRow | None:
        settings = self.settings
        if len(row) > 1 and not has_no_context(row, settings):
            return None
        prompt, completion = settings.prompt_column, settings.completion_column
        if prompt is None or completion is None:
            found = self.plain_messages.read(row.get(settings.column))
        else:
            found = self._plain_pair(row.get(prompt), row.get(completion))
        return found and with_plain_system(found, settings.system)

    def plain_table(self, rows: TableRows) -> PlainTable | None:
        settings = self.settings
        if settings.prompt_column is not None or settings.system is not None:
            return None
        others = (settings.template_kwargs_column,)
        return message_table(rows, self.plain_messages, settings.column, list_columns(settings), others)

    def _plain_pair(self, prompt: Any, completion: Any) -> PlainRow | None:
        given, answer = self._plain_side(prompt, "user"), self._plain_side(completion, "assistant")
        if given is None or answer is None:
            return None
        shape = tuple(PlainMessage(message.role, False) for message in given.shape)
        return PlainRow((*shape, *answer.shape), [*given.texts, *answer.texts])

    def _plain_side(self, value: Any, role: MessageRole) -> PlainRow | None:
        return plain_row((PlainMessage(role),), [value]) if isinstance(value, str) else self.plain_messages.read(value)


def make_openai(settings: OpenAI, *, loss_weights: bool) -> Converter:
    span_keys = (settings.span_key,) if settings.span_key else SPAN_KEYS
    roles = {**OPENAI_ROLES, **settings.roles}
    reader = MessageReader(roles, loss_weights, span_keys=span_keys)
    return ConvertOpenAI(settings, reader, PlainMessages(roles, reader.role_key, reader.content_key))
