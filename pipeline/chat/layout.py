"""A conversation rendered: its text, the row's characters in it, and the regions that the model writes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.chat.history import Piece, split_history
from pipeline.chat.lexemes import Lexemes
from pipeline.chat.probe import TurnEnds
from pipeline.chat.regions import Region, RowSpan, close_last_turn, find_regions, row_spans
from pipeline.chat.replay.template import ReplayingTemplate
from pipeline.chat.template import ChatTemplate
from pipeline.chat.traced import Traced
from pipeline.encoders.base import TokenSpan
from schemas.conversation import Conversation


class Layout(NamedTuple):
    rendering: Traced
    rows: Sequence[RowSpan]
    regions: Sequence[Region]

    @property
    def text(self) -> str:
        return self.rendering.plain


@dataclass(frozen=True, slots=True)
class DocumentLayout:
    """A document before it is encoded: characters uint8[len(text)], the channel of each character; numbers
    int32[len(text)], the index in `regions` of the region that it is in, -1 outside.

    `controls`: where control tokens stand; None where the encoder is to find them. Regions of messages before `first`
    are context, which ends at character `context`: a token that begins before it is not trained, wherever the
    character stands that gives the token its channel. `dropped`: the messages whose reasoning is not in the text.
    `weights`: float32[regions + 1], of each region, and of what is in none.
    """

    text: str
    characters: npt.NDArray[np.uint8]
    numbers: npt.NDArray[np.int32]
    rows: Sequence[RowSpan]
    regions: Sequence[Region]
    controls: Sequence[TokenSpan] | None
    first: int
    context: int
    dropped: frozenset[int]
    weights: npt.NDArray[np.float32] | None


class ConversationRenderer:
    """Lays out a conversation and its beginnings; each rendering is made once."""

    def __init__(
        self, conversation: Conversation, template: ReplayingTemplate | ChatTemplate, ends: TurnEnds, lexemes: Lexemes
    ) -> None:
        self._conversation = conversation
        self.assistants = [index for index, each in enumerate(conversation.messages) if each.role == "assistant"]
        self._template = template
        self._ends = ends
        self._lexemes = lexemes
        self._renderings: dict[int, Traced] = {}
        self._prompts: dict[int, Traced | None] = {}

    def lay_out(self, stop: int) -> Layout:
        """messages[:stop], the last turn closed. Raises RejectRow."""
        rows = row_spans(self._render(stop))
        rendering = self._close(stop, rows)
        assistants = [index for index in self.assistants if index < stop]
        return Layout(rendering, rows, find_regions(rendering, rows, assistants, self.prompt, self._lexemes))

    def render(self, stop: int) -> Traced:
        """The text of messages[:stop] that is trained on, the last turn closed. Raises RejectRow."""
        return self._close(stop, row_spans(self._render(stop)))

    def _close(self, stop: int, rows: Sequence[RowSpan]) -> Traced:
        messages = self._conversation.messages[:stop]
        closing = self._ends.after_call if messages[-1].tool_calls else self._ends.after_answer
        return close_last_turn(self._render(stop), rows, messages, closing, self._lexemes)

    def prompt(self, index: int) -> Traced | None:
        """What serving sends before message `index` is written; None where the template refuses that."""
        if index not in self._prompts:
            self._prompts[index] = self._template.prompt(self._conversation, index)
        return self._prompts[index]

    def pieces(self) -> list[Piece]:
        """The documents of `reasoning_history: split`."""
        count = len(self._conversation.messages)
        return split_history(self.assistants, count, self._written, self.prompt, lambda: self._render(count).plain)

    def _written(self, index: int) -> str:
        """messages[:index + 1] through what the model writes of the last. Raises RejectRow."""
        rendering = self._render(index + 1)
        regions = find_regions(rendering, row_spans(rendering), [index], self.prompt, self._lexemes)
        return rendering.plain[: regions[-1].end]

    def _render(self, stop: int) -> Traced:
        if stop not in self._renderings:
            beginning = replace(self._conversation, messages=self._conversation.messages[:stop])
            self._renderings[stop] = self._template.render(beginning)
        return self._renderings[stop]
