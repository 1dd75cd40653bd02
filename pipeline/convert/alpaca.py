"""Rows as Stanford Alpaca has them."""

from dataclasses import dataclass

from pipeline.config import Alpaca
from pipeline.convert.column_text import column_text
from pipeline.convert.converter import Row
from pipeline.convert.messages import with_system
from pipeline.convert.plain import TURN, PlainRow, plain_row, with_plain_system
from schemas.conversation import Conversation, Message


@dataclass(frozen=True, slots=True)
class ConvertAlpaca:
    settings: Alpaca

    def __call__(self, row: Row) -> Conversation:
        settings = self.settings
        prompt = column_text(row, settings.instruction)
        if row.get(settings.input) not in (None, ""):
            prompt += "\n\n" + column_text(row, settings.input)
        turn = (Message("user", prompt), Message("assistant", column_text(row, settings.output)))
        return Conversation(with_system(turn, settings.system))

    def plain(self, row: Row) -> PlainRow | None:
        settings = self.settings
        prompt, more, answer = row.get(settings.instruction), row.get(settings.input), row.get(settings.output)
        if more not in (None, ""):
            if not isinstance(prompt, str) or not isinstance(more, str):
                return None
            prompt = f"{prompt}\n\n{more}"
        found = plain_row(TURN, [prompt, answer])
        return found and with_plain_system(found, settings.system)
