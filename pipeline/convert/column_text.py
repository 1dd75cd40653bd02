"""Text out of columns: one column, or a format string over several."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Any, NamedTuple

from pipeline.convert.fields import require_column, wrong_type
from schemas.errors import ConfigError


class Piece(NamedTuple):
    """Text as it stands, then the value of a column."""

    text: str
    column: str | None


@dataclass(frozen=True, slots=True)
class ColumnText:
    pieces: tuple[Piece, ...]

    @property
    def column(self) -> str | None:
        """The column whose value is the whole text; None where there is more to it."""
        return self.pieces[0].column if len(self.pieces) == 1 and not self.pieces[0].text else None

    def __call__(self, row: Mapping[str, Any]) -> str:
        """Raises RejectRow for a column that is missing or holds no text and no number."""
        return "".join(piece.text + (column_text(row, piece.column) if piece.column else "") for piece in self.pieces)


def column_text(row: Mapping[str, Any], column: str) -> str:
    value = require_column(row, column)
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise wrong_type(column, "a string or a finite number", value)
    return str(value)


def is_format(text: str) -> bool:
    return "{" in text


def parse_column_text(text: str, key: str) -> ColumnText:
    """A column's name or, with a brace in it, a format string. `key` is the setting, for the ConfigError."""
    if not is_format(text):
        return ColumnText((Piece("", text),))
    try:
        fields = list(Formatter().parse(text))
    except ValueError as error:
        raise _bad_format(text, key, str(error)) from error
    for _, name, specification, conversion in fields:
        if name is not None and (not name or specification or conversion or re.search(r"[.\[\]]", name)):
            raise _bad_format(text, key, f"{name!r} is no plain column name")
    return ColumnText(tuple(Piece(literal, name) for literal, name, _, _ in fields))


def _bad_format(text: str, key: str, why: str) -> ConfigError:
    example = 'write a column as {name}, as in "{title}: {text}", and a brace that is text twice'
    return ConfigError(f"transform.{key}: {text!r} is no format string: {why}; {example}")
