"""From a conversation to ids and channels: render, find the regions, encode, look up."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.chat.channels import character_channels, region_numbers, token_channels
from pipeline.chat.control_tokens import LITERAL, template_tokens, with_chosen_controls
from pipeline.chat.emitted import dropped_reasoning
from pipeline.chat.history import Piece
from pipeline.chat.layout import ConversationRenderer, DocumentLayout, Layout
from pipeline.chat.lexemes import Lexemes
from pipeline.chat.probe import choose_call_style, find_border_tokens, find_turn_ends
from pipeline.chat.regions import Region
from pipeline.chat.replay.template import ReplayingTemplate
from pipeline.chat.spans import outside_spans
from pipeline.chat.template import ChatTemplate
from pipeline.chat.traced import Traced
from pipeline.config import ControlTokens
from pipeline.encoders.base import Encoder, TokenSpan
from schemas.channels import NO_LOSS
from schemas.conversation import Conversation, Message


@dataclass(frozen=True, slots=True)
class Turn:
    """An assistant turn: tokens [start, end) of a document lie in the generated region of message `message`.

    `served`: the region begins where the served prompt ends. `reasoning_dropped`: the row has reasoning that the
    template did not emit.
    """

    message: int
    start: int
    end: int
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
    """A chat template and an encoder that go together. `stop_ids` are the model's own eos ids; the attribute has what
    ends an answer or a call as well, as a server must stop there."""

    def __init__(
        self,
        template: ChatTemplate,
        encoder: Encoder,
        stop_ids: Sequence[int],
        eos_token: str | None,
        *,
        control_tokens: ControlTokens = LITERAL,
        split_history: bool = False,
    ) -> None:
        """Raises ConfigError for tokens of `control_tokens` that the tokenizer does not have."""
        choose_call_style(template)
        added = encoder.added_tokens
        eos = next((token for token in added if token.content == eos_token), None)
        self._ends = find_turn_ends(template, added, stop_ids, eos)
        self.lexemes = Lexemes(added, self._ends.tokens, self._ends.stops)
        border = find_border_tokens(template, added, self.lexemes)
        self.template = template
        self.replaying = ReplayingTemplate(template)
        self.encoder = with_chosen_controls(encoder, self._ends.tokens, border, control_tokens)
        self.control_tokens = tuple(token for token in self.encoder.added_tokens if token.special)
        self.end_ids = sorted(token.id for token in self._ends.tokens)
        closing = (self._ends.after_answer, self._ends.after_call)
        self.stop_ids = sorted(token.id for token in added if token in self._ends.stops or token.content in closing)
        self._control_ids = {token.id for token in self.control_tokens}
        self._parse = control_tokens.mode == "parse"
        self.splits_history = split_history

    def documents(self, conversation: Conversation, *, replay: bool = True) -> list[Tokens]:
        """One document, or several where the history is to be split and the template rewrites it. Without `replay` the
        template itself renders. Raises RejectRow."""
        return [self.encode_layout(layout) for layout in self.lay_out_documents(conversation, replay=replay)]

    def lay_out_documents(self, conversation: Conversation, *, replay: bool = True) -> list[DocumentLayout]:
        """What `documents` encodes. Raises RejectRow."""
        renderer = self._renderer(conversation, self.replaying if replay else self.template)
        pieces = renderer.pieces() if self.splits_history else [Piece(0, len(conversation.messages))]
        return [self.lay_out_document(conversation, renderer, piece) for piece in pieces]

    def start_block(self) -> None:
        """A new sample of what is replayed goes through the template as well."""
        self.replaying.start_block()

    def format(self, conversation: Conversation) -> Tokens:
        """The whole conversation as one document. Raises RejectRow."""
        whole = Piece(0, len(conversation.messages))
        return self.encode_layout(
            self.lay_out_document(conversation, self._renderer(conversation, self.replaying), whole)
        )

    def render(self, conversation: Conversation) -> Traced:
        """The text that is trained on: the template's, its last turn closed. Raises RejectRow."""
        return self._renderer(conversation, self.replaying).render(len(conversation.messages))

    def lay_out(self, conversation: Conversation) -> Layout:
        """The text that is trained on, with its rows and regions. Raises RejectRow."""
        return self._renderer(conversation, self.replaying).lay_out(len(conversation.messages))

    def _renderer(self, conversation: Conversation, template: ReplayingTemplate | ChatTemplate) -> ConversationRenderer:
        return ConversationRenderer(conversation, template, self._ends, self.lexemes)

    def lay_out_document(
        self, conversation: Conversation, renderer: ConversationRenderer, piece: Piece
    ) -> DocumentLayout:
        """All of a document but its tokens. Raises RejectRow."""
        messages = conversation.messages[: piece.stop]
        layout = renderer.lay_out(piece.stop)
        dropped = dropped_reasoning(layout, messages)
        last_turn = max(renderer.assistants, default=-1)
        return DocumentLayout(
            text=layout.text,
            characters=character_channels(layout, messages, self.lexemes, last_turn),
            numbers=region_numbers(len(layout.text), layout.regions),
            rows=layout.rows,
            regions=layout.regions,
            controls=None if self._parse else self._control_spans(layout),
            first=piece.first,
            context=max((region.end for region in layout.regions if region.message < piece.first), default=0),
            dropped=dropped,
            weights=_weights(messages, layout.regions),
        )

    def encode_layout(self, layout: DocumentLayout) -> Tokens:
        encoded = self.encoder.encode(layout.text, layout.controls)
        channel, straddling = token_channels(encoded, layout.characters, layout.rows, layout.numbers)
        channel[encoded.starts < layout.context] |= NO_LOSS
        channel[outside_spans(encoded, layout.rows, len(layout.text))] |= NO_LOSS
        channel[:1] |= NO_LOSS
        region_of_token = layout.numbers[np.minimum(encoded.starts, len(layout.text) - 1)]
        return Tokens(
            input_ids=encoded.ids,
            channel=channel,
            weight=None if layout.weights is None else layout.weights[region_of_token],
            straddling=straddling,
            turns=tuple(
                replace(turn, reasoning_dropped=turn.message in layout.dropped)
                for turn in _turns(layout.regions, region_of_token)
                if turn.message >= layout.first
            ),
        )

    def _control_spans(self, layout: Layout) -> list[TokenSpan]:
        """Control tokens in template text only; typed in content they stay text."""
        found = template_tokens(layout.text, layout.rows, self.lexemes.added)
        return [span for span in found if span.id in self._control_ids]


def _turns(regions: Sequence[Region], region_of_token: npt.NDArray[np.int32]) -> Iterator[Turn]:
    """Regions without a token are left out: the tokens that hold their text begin before them."""
    for number, region in enumerate(regions):
        tokens = np.flatnonzero(region_of_token == number)
        if len(tokens):
            yield Turn(region.message, int(tokens[0]), int(tokens[-1]) + 1, region.served)


def _weights(messages: Sequence[Message], regions: Sequence[Region]) -> npt.NDArray[np.float32] | None:
    """float32[regions + 1]: each region's weight is that of its message, or 1, as is that of what is in none, number
    -1; None where no message has a weight."""
    if all(message.weight is None for message in messages):
        return None
    given = [messages[region.message].weight for region in regions]
    return np.array([1.0 if weight is None else weight for weight in given] + [1.0], np.float32)
