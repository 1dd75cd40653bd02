"""Rows whose columns are the sides of one turn."""

import re
from dataclasses import dataclass

from pipeline.config import Columns
from pipeline.convert.column_text import ColumnText, column_text, is_format, parse_column_text
from pipeline.convert.converter import Converter, Row
from pipeline.convert.plain import TURN, PlainMessage, PlainRow, plain_row
from pipeline.convert.plain_table import PlainTable, turn_table
from pipeline.readers.table_rows import TableRows
from schemas.conversation import Conversation, Message
from schemas.rejects import Reason, RejectRow


@dataclass(frozen=True, slots=True)
class SystemText:
    """The setting `system` without columns in it: the name of a column of the row, else literal text.

    One bare word is taken for a column's name, so that a misspelt or absent column never becomes a prompt.
    """

    text: str

    def __call__(self, row: Row) -> str:
        if self.text in row:
            return column_text(row, self.text)
        if re.fullmatch(r"[\w-]*", self.text):
            raise RejectRow(
                Reason.MISSING_COLUMN,
                f"no column {self.text!r} for `system`; literal text has a space or a full stop, as in 'Translate.'",
            )
        return self.text


@dataclass(frozen=True, slots=True)
class ConvertColumns:
    input: ColumnText
    output: ColumnText
    system: ColumnText | SystemText | None

    def __call__(self, row: Row) -> Conversation:
        system = (Message("system", self.system(row)),) if self.system else ()
        return Conversation((*system, Message("user", self.input(row)), Message("assistant", self.output(row))))

    def plain(self, row: Row) -> PlainRow | None:
        try:
            texts = [self.input(row), self.output(row)]
            if self.system is None:
                return plain_row(TURN, texts)
            return plain_row((PlainMessage("system"), *TURN), [self.system(row), *texts])
        except RejectRow:
            return None

    def plain_table(self, rows: TableRows) -> PlainTable | None:
        question, answer = self.input.column, self.output.column
        return turn_table(rows, question, answer) if question and answer and self.system is None else None


def make_columns(settings: Columns) -> Converter:
    """Raises ConfigError for a format string that is none."""
    return ConvertColumns(
        parse_column_text(settings.input, "input"),
        parse_column_text(settings.output, "output"),
        None if settings.system is None else _parse_system(settings.system),
    )


def _parse_system(text: str) -> ColumnText | SystemText:
    return parse_column_text(text, "system") if is_format(text) else SystemText(text)
