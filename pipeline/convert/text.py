"""Rows with a plain text in a column."""

from dataclasses import dataclass

from pipeline.config import Text
from pipeline.convert.converter import Row
from pipeline.convert.fields import require_column, require_text
from pipeline.convert.plain import TEXT, PlainRow, plain_row
from pipeline.convert.plain_table import PlainTable, text_table
from pipeline.readers.table_rows import TableRows
from schemas.conversation import TextDocument


@dataclass(frozen=True, slots=True)
class ConvertText:
    settings: Text

    def __call__(self, row: Row) -> TextDocument:
        column = self.settings.column
        return TextDocument(require_text(require_column(row, column), column))

    def plain(self, row: Row) -> PlainRow | None:
        return plain_row(TEXT, [row.get(self.settings.column)])

    def plain_table(self, rows: TableRows) -> PlainTable | None:
        return text_table(rows, self.settings.column)
