"""Rows as Stanford Alpaca has them."""

from dataclasses import dataclass

from pipeline.config import Alpaca
from pipeline.convert.column_text import column_text
from pipeline.convert.converter import Row
from pipeline.convert.messages import with_system
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
