"""Pieces end to end, whose runs are joined when they are asked for."""

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.chat.limits import LimitExceeded, spend_text
from pipeline.chat.traced import Traced, concat, size_of


class JoinedText(Traced):
    """Of a prompt, mostly only the text matters."""

    __slots__ = ("_parts",)
    _parts: Sequence[str]

    def __new__(cls, parts: Sequence[str], most: int) -> "JoinedText":
        """Raises LimitExceeded, as `concat` does."""
        size = sum(map(size_of, parts))
        if size > most:
            raise LimitExceeded(f"the template makes a string of {size} characters, too many for this row")
        spend_text(size)
        made = str.__new__(cls, "".join(parts))
        made._parts = parts
        return made

    @property
    def pieces(self) -> Iterable[str]:
        return self._parts

    def __getattr__(self, name: str) -> Any:
        if name != "runs":
            raise AttributeError(name)
        self.runs = concat(self._parts, sys.maxsize).runs
        return self.runs
