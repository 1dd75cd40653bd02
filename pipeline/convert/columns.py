"""One turn, or one text, from a row's columns."""

from collections.abc import Mapping
from string import Formatter
from typing import Any

from pipeline.config import Alpaca, Columns, Text
from pipeline.convert import fields
from pipeline.convert.openai import with_system
from pipeline.convert.validate import validate
from schemas.conversation import Conversation, Message, TextDocument
from schemas.errors import ConfigError
from schemas.rejects import Reason, RejectRow


class ColumnText:
    """Text from a row: a column's name, or with braces in it a format string over columns.

    Raises ConfigError for a format string with anything but plain fields.
    """

    def __init__(self, setting: str, key: str) -> None:
        self.is_format = "{" in setting or "}" in setting
        self._parts = _parse(setting, key) if self.is_format else [("", setting)]

    def __call__(self, row: Mapping[str, Any]) -> str:
        return "".join(text + (fields.text_column(row, name) if name is not None else "") for text, name in self._parts)


def _parse(setting: str, key: str) -> list[tuple[str, str | None]]:
    try:
        parsed = list(Formatter().parse(setting))
    except ValueError as error:
        raise ConfigError(f"transform.{key}: {setting!r}: {error}; write {{{{ or }}}} for a brace") from error
    for _, name, specification, conversion in parsed:
        if name is not None and (not name or set(name) & set(".[]") or specification or conversion):
            raise ConfigError(f"transform.{key}: in {setting!r} only plain {{column}} fields are allowed, not {name!r}")
    return [(text, name) for text, name, _, _ in parsed]


class ColumnsConverter:
    def __init__(self, settings: Columns) -> None:
        self._input = ColumnText(settings.input, "input")
        self._output = ColumnText(settings.output, "output")
        self._system = settings.system
        self._system_text = ColumnText(settings.system or "", "system")

    def __call__(self, row: dict[str, Any]) -> Conversation:
        messages = [
            Message("user", self._input(row)),
            Message("assistant", self._output(row)),
        ]
        if self._system is not None:
            is_reference = self._system in row or self._system_text.is_format
            system = self._system_text(row) if is_reference else self._system  # else it is the text itself
            messages.insert(0, Message("system", system))
        return validate(Conversation(tuple(messages)))


class AlpacaConverter:
    def __init__(self, settings: Alpaca) -> None:
        self._settings = settings

    def __call__(self, row: dict[str, Any]) -> Conversation:
        settings = self._settings
        prompt = fields.text_column(row, settings.instruction)
        if row.get(settings.input):
            prompt += "\n\n" + fields.text_column(row, settings.input)
        messages = [Message("user", prompt), Message("assistant", fields.text_column(row, settings.output))]
        return validate(Conversation(with_system(messages, settings.system)))


class TextConverter:
    def __init__(self, settings: Text) -> None:
        self._column = settings.column

    def __call__(self, row: dict[str, Any]) -> TextDocument:
        text = fields.text_column(row, self._column)
        if not text:
            raise RejectRow(Reason.EMPTY, f"column {self._column!r} is empty")
        return TextDocument(text)
