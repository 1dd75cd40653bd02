"""Rows with `from`/`value` lists."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.config import RoleTarget, ShareGPT
from pipeline.convert.converter import Converter, Row
from pipeline.convert.fields import optional_text, require_column
from pipeline.convert.messages import SPAN_KEYS, MessageReader, with_system
from pipeline.convert.plain import PlainMessages, PlainRow, with_plain_system
from pipeline.convert.plain_table import PlainTable, message_table
from pipeline.convert.row_context import has_no_context, list_columns, make_conversation
from pipeline.readers.table_rows import TableRows
from schemas.conversation import Conversation, Message

SHAREGPT_ROLES: Mapping[str, RoleTarget] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
    "function_call": "function_call",
    "observation": "tool",
    "tool": "tool",
}


@dataclass(frozen=True, slots=True)
class ConvertShareGPT:
    settings: ShareGPT
    reader: MessageReader
    plain_messages: PlainMessages

    def __call__(self, row: Row) -> Conversation:
        settings = self.settings
        messages = self.reader.read_list(require_column(row, settings.column), settings.column)
        with_column = (*self._system(row), *messages)
        return make_conversation(with_system(with_column, settings.system), row, settings)

    def _system(self, row: Row) -> tuple[Message, ...]:
        column = self.settings.system_column
        text = optional_text(row.get(column), column) if column else None
        return (Message("system", text),) if text else ()

    def plain(self, row: Row) -> PlainRow | None:
        settings = self.settings
        has_system = settings.system_column and row.get(settings.system_column) not in (None, "")
        if has_system or not has_no_context(row, settings):
            return None
        found = self.plain_messages.read(row.get(settings.column))
        return found and with_plain_system(found, settings.system)

    def plain_table(self, rows: TableRows) -> PlainTable | None:
        settings = self.settings
        if settings.system is not None:
            return None
        others = (settings.template_kwargs_column, settings.system_column)
        return message_table(rows, self.plain_messages, settings.column, list_columns(settings), others)


def make_sharegpt(settings: ShareGPT, *, loss_weights: bool) -> Converter:
    roles = {**SHAREGPT_ROLES, **settings.roles}
    span_keys = (settings.span_key,) if settings.span_key else SPAN_KEYS
    reader = MessageReader(roles, loss_weights, "from", "value", span_keys)
    return ConvertShareGPT(settings, reader, PlainMessages(roles, reader.role_key, reader.content_key))
