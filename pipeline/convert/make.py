"""From a transform's settings to its converter."""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.config import Alpaca, Columns, Custom, OpenAI, ShareGPT, Text, Transform
from pipeline.convert.alpaca import ConvertAlpaca
from pipeline.convert.columns import make_columns
from pipeline.convert.converter import Converter, Row
from pipeline.convert.custom import make_custom
from pipeline.convert.openai import make_openai
from pipeline.convert.plain import PlainRow
from pipeline.convert.plain_table import PlainTable
from pipeline.convert.sharegpt import make_sharegpt
from pipeline.convert.text import ConvertText
from pipeline.convert.validate import validate
from pipeline.readers.table_rows import TableRows
from schemas.conversation import Document


@dataclass(frozen=True, slots=True)
class Validated:
    """A converter whose documents are checked."""

    convert: Converter

    def __call__(self, row: Row) -> Document:
        document = self.convert(row)
        validate(document)
        return document

    @property
    def plain(self) -> Callable[[Row], PlainRow | None] | None:
        """Gives the texts of a row that is nothing but messages with a text each, or one text; None for any other."""
        return getattr(self.convert, "plain", None)

    @property
    def plain_table(self) -> Callable[[TableRows], PlainTable | None] | None:
        """The same of the rows of a table; None for a table of other columns."""
        return getattr(self.convert, "plain_table", None)


def make_converter(settings: Transform, *, loss_weights: bool) -> Converter:
    """Raises ConfigError for settings that cannot be used. Without `loss_weights` a fractional weight is a reject."""
    return Validated(_make(settings, loss_weights=loss_weights))


def _make(settings: Transform, *, loss_weights: bool) -> Converter:
    match settings:
        case OpenAI():
            return make_openai(settings, loss_weights=loss_weights)
        case ShareGPT():
            return make_sharegpt(settings, loss_weights=loss_weights)
        case Columns():
            return make_columns(settings)
        case Alpaca():
            return ConvertAlpaca(settings)
        case Text():
            return ConvertText(settings)
        case Custom():
            return make_custom(settings, loss_weights=loss_weights)
