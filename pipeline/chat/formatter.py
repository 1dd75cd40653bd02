"""From a conversation to ids and channels: render, find the regions, encode, look up."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from pipeline.chat.channels import character_channels, region_numbers, token_channels
from pipeline.chat.probe import choose_tool_arguments, find_border_tokens, find_turn_ends
from pipeline.chat.regions import (
    Lexemes,
    Region,
    RowSpan,
    check_emitted,
    close_last_turn,
    find_regions,
    row_spans,
)
from pipeline.chat.replay.template import ReplayingTemplate
from pipeline.chat.template import ChatTemplate
from pipeline.chat.traced import Traced
from pipeline.encoders.base import AddedToken, Encoder, TokenFinder, TokenSpan
from schemas.channels import NO_LOSS
from schemas.conversation import Conversation, Message


@dataclass(frozen=True, slots=True)
class Turn:
    """An assistant turn: tokens [start, end) of a document lie in the generated region of message `message`.

    `terminated`: the last of them is an end token. `served`: the region begins where the served prompt ends.
    `reasoning_dropped`: the row has reasoning that the template did not emit.
    """

    message: int
    start: int
    end: int
    terminated: bool
    served: bool = True
    reasoning_dropped: bool = False


@dataclass(frozen=True, slots=True)
class Tokens:
    """A document: input_ids int32[n], channel uint8[n], weight float32[n] where the row gave weights. `turns` are the
    assistant turns of a conversation, in order."""

    input_ids: npt.NDArray[np.int32]
    channel: npt.NDArray[np.uint8]
    weight: npt.NDArray[np.float32] | None = None
    straddling: int = 0  # tokens that begin in a header and end in a generated region
    truncated: bool = False
    turns: tuple[Turn, ...] = ()

    def __len__(self) -> int:
        return len(self.input_ids)


class ChatFormatter:
    """A chat template and an encoder that go together. `stop_ids` are the model's own eos ids."""

    def __init__(
        self, template: ChatTemplate, encoder: Encoder, stop_ids: Sequence[int], eos_token: str | None
    ) -> None:
        choose_tool_arguments(template)
        added = encoder.added_tokens
        eos = next((token for token in added if token.content == eos_token), None)
        ends = find_turn_ends(template, added, stop_ids, eos)
        self._lexemes = Lexemes(added, ends.tokens)
        controls = {*ends.tokens, *find_border_tokens(template, added, self._lexemes)}
        self.template = ReplayingTemplate(template)
        self.control_tokens = tuple(token for token in added if token.special or token in controls)
        self.encoder = _with_controls(encoder, self.control_tokens)
        self.end_ids = sorted(token.id for token in ends.tokens)
        self._closing = ends.closing
        self._controls = TokenFinder(self.control_tokens)

    def start_block(self) -> None:
        """A new sample of what is replayed goes through the template as well."""
        self.template.start_block()

    def format(self, conversation: Conversation) -> Tokens:
        """Raises RejectRow."""
        messages = conversation.messages
        rendering = self.render(conversation)
        rows = row_spans(rendering)
        check_emitted(rendering.plain, rows, messages)
        prompt = partial(self.template.prompt, messages, conversation.tools)
        regions = find_regions(rendering, rows, messages, prompt, self._lexemes)
        characters = character_channels(rendering.plain, rows, regions, messages, self._lexemes)
        numbers = region_numbers(len(rendering), regions)
        encoded = self.encoder.encode(rendering.plain, self._control_spans(rendering, rows))
        channel, straddling = token_channels(encoded, characters, rows, numbers)
        channel[:1] |= NO_LOSS
        region_of_token = numbers[np.minimum(encoded.starts, len(rendering) - 1)]
        weight = _weights(messages, regions, region_of_token)
        turns = tuple(self._turns(regions, region_of_token, encoded.ids))
        return Tokens(encoded.ids, channel, weight, straddling, turns=turns)

    def _turns(
        self, regions: Sequence[Region], region_of_token: npt.NDArray[np.int32], ids: npt.NDArray[np.int32]
    ) -> Iterator[Turn]:
        """Regions without a token are left out: the tokens that hold their text begin before them."""
        for number, region in enumerate(regions):
            tokens = np.flatnonzero(region_of_token == number)
            if len(tokens):
                start, end = int(tokens[0]), int(tokens[-1]) + 1
                yield Turn(region.message, start, end, int(ids[end - 1]) in self.end_ids)

    def render(self, conversation: Conversation) -> Traced:
        """The text that is trained on: the template's, its last turn closed. Raises RejectRow."""
        rendering = self.template.render(conversation.messages, conversation.tools)
        return close_last_turn(rendering, conversation.messages, self._closing, self._lexemes)

    def _control_spans(self, rendering: Traced, rows: Sequence[RowSpan]) -> list[TokenSpan]:
        """Control tokens in template text only; typed in content they stay text."""
        row_text = np.zeros(len(rendering) + 1, np.bool_)
        for start, end, _ in rows:
            row_text[start:end] = True
        found = self._controls.find(rendering.plain)
        return [span for span in found if not row_text[span.content].any()]


def _with_controls(encoder: Encoder, controls: Sequence[AddedToken]) -> Encoder:
    if all(token.special for token in controls):
        return encoder
    return encoder.with_controls([token.content for token in controls])


def _weights(
    messages: Sequence[Message], regions: Sequence[Region], numbers: npt.NDArray[np.int32]
) -> npt.NDArray[np.float32] | None:
    """float32[n]: each token's weight is that of the message in whose region it begins, else 1."""
    if all(message.weight is None for message in messages):
        return None
    given = [messages[region.message].weight for region in regions]
    by_region = np.array([1.0 if weight is None else weight for weight in given] + [1.0], np.float32)
    return by_region[numbers]  # -1, outside any region, picks the last
