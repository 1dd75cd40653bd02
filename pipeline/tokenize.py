"""From documents to flat arrays of tokens, and the rules about which documents may stay."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.blocks import BlockKey, DocumentBlock
from pipeline.chat.control_tokens import check_no_control_token
from pipeline.chat.formatter import ChatFormatter, Tokens
from pipeline.config import BuildConfig
from pipeline.encoders.base import Encoder, EncodingFailed
from pipeline.encoders.compare import EngineDifference
from pipeline.shorten import drop_last_turns
from pipeline.turns import TurnAudit, audit_turns
from schemas.channels import NO_LOSS, Part, Role, pack_channel
from schemas.conversation import Conversation, Document, TextDocument
from schemas.manifest import Certificate
from schemas.rejects import Reason, Reject, RejectRow

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(slots=True)
class TokenBlock:
    """The documents of a block. T tokens, D documents; document d holds tokens [offsets[d], offsets[d + 1])."""

    key: BlockKey
    input_ids: npt.NDArray[np.int32]  # [T]
    channel: npt.NDArray[np.uint8]  # [T]
    weight: npt.NDArray[np.float32] | None  # [T]
    offsets: npt.NDArray[np.int64]  # [D + 1]
    sources: npt.NDArray[np.int32]  # [D]
    positions: npt.NDArray[np.int64]  # [D]
    pieces: npt.NDArray[np.int32]  # [D]
    rejects: list[Reject] = field(default_factory=list)
    rows: dict[int, int] = field(default_factory=dict)  # rows read, by source
    bytes: int = 0
    truncated: int = 0
    straddling: int = 0
    turns: TurnAudit = field(default_factory=TurnAudit)
    certificate: Certificate | None = None
    difference: EngineDifference | None = None

    def __len__(self) -> int:
        return len(self.sources)


class DocumentTokenizer:
    """Applies the config's rules: `too_long`, control tokens, the loss policy, weights. `formatter` may be None for
    text alone."""

    def __init__(self, config: BuildConfig, encoder: Encoder, formatter: ChatFormatter | None) -> None:
        self.seq_len = config.seq_len
        self.too_long = config.too_long
        self.loss_weights = config.loss_weights
        self.trained = config.loss_policy.table()
        self.end_ids = frozenset(formatter.end_ids if formatter else ())
        self.encoder = encoder
        self._formatter = formatter
        self._mode = config.control_tokens.mode
        self._controls = [token.content for token in encoder.added_tokens if token.special]

    def start_block(self) -> None:
        if self._formatter is not None:
            self._formatter.start_block()

    def tokenize(self, document: Document) -> list[Tokens]:
        """The documents that a row gives: one, or several where a text or a history is split. Raises RejectRow."""
        if self._mode == "reject":
            check_no_control_token(document, self._controls)
        try:
            documents = self._documents(document)
        except UnicodeEncodeError as error:
            raise RejectRow(Reason.UNENCODABLE, f"a lone surrogate: {error.reason}") from error
        except EncodingFailed as error:
            raise RejectRow(Reason.UNENCODABLE, str(error)) from error
        fitting = self._fit(documents, document)
        trained = [tokens for tokens in fitting if self.trained[tokens.channel].any()]
        if not trained:
            raise RejectRow(Reason.NO_TRAINED_TOKENS, "no token of it is trained under loss_policy")
        return trained if isinstance(document, Conversation) else fitting

    def _documents(self, document: Document) -> list[Tokens]:
        if isinstance(document, Conversation):
            if self._formatter is None:
                raise RejectRow(Reason.TEMPLATE_ERROR, "the tokenizer has no chat template; set chat_template")
            return self._formatter.documents(document)
        ids = self.encoder.encode_document(document.text, parse=self._mode == "parse")
        return [Tokens(ids, text_channels(len(ids), self.encoder, ids))]

    def _fit(self, documents: list[Tokens], document: Document) -> list[Tokens]:
        longest = max(map(len, documents))
        if longest <= self.seq_len:
            return documents
        if self.too_long == "truncate":
            return [truncate(tokens, self.seq_len) for tokens in documents]
        if self.too_long == "split" and isinstance(document, TextDocument):
            return [piece for tokens in documents for piece in split(tokens, self.seq_len)]
        if self.too_long == "truncate_turns" and isinstance(document, Conversation):
            shorter = drop_last_turns(document, documents, self._documents, self.seq_len)
            if shorter is not None:
                return [replace(tokens, truncated=True) for tokens in shorter]
        raise RejectRow(Reason.TOO_LONG, f"{longest} tokens, seq_len is {self.seq_len}")


def text_channels(length: int, encoder: Encoder, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    """uint8[n]: the body, BOS before it as template and EOS as the end."""
    channel = np.full(length, pack_channel(Role.TEXT, Part.BODY), np.uint8)
    controls = {token.id for token in encoder.added_tokens if token.special}
    if length and int(ids[0]) in controls:
        channel[0] = pack_channel(Role.TEXT, Part.TEMPLATE)
    if length and int(ids[-1]) in controls:
        channel[-1] = pack_channel(Role.TEXT, Part.END)
    channel[:1] |= NO_LOSS
    return channel


def cut(tokens: Tokens, start: int, stop: int) -> Tokens:
    weight = None if tokens.weight is None else tokens.weight[start:stop]
    return Tokens(tokens.input_ids[start:stop], tokens.channel[start:stop], weight, tokens.straddling)


def truncate(tokens: Tokens, seq_len: int) -> Tokens:
    """The first `seq_len` tokens. A turn that is cut keeps its end, which then lies beyond the document."""
    if len(tokens) <= seq_len:
        return tokens
    begun = tuple(turn for turn in tokens.turns if turn.start < seq_len)
    return replace(cut(tokens, 0, seq_len), turns=begun, truncated=True)


def split(tokens: Tokens, seq_len: int) -> Iterator[Tokens]:
    """Pieces of at most `seq_len` tokens. Each piece but the first begins with the last token of the one before, as
    context that is not trained, so that every token of the text is trained once."""
    yield cut(tokens, 0, seq_len)
    for start in range(seq_len - 1, len(tokens) - 1, seq_len - 1):
        piece = cut(tokens, start, start + seq_len)
        channel = piece.channel.copy()
        channel[0] |= NO_LOSS
        yield Tokens(piece.input_ids, channel, piece.weight)


def tokenize_documents(block: DocumentBlock, tokenizer: DocumentTokenizer) -> TokenBlock:
    """Each row gives its documents or one reject."""
    made: list[Tokens] = []
    places: list[tuple[int, int, int]] = []
    rejects = list(block.rejects)
    truncated = 0
    tokenizer.start_block()
    for source, position, document in zip(block.sources, block.positions, block.documents, strict=True):
        try:
            pieces = tokenizer.tokenize(document)
        except RejectRow as reject:
            rejects.append(Reject(source, position, reject.reason, reject.detail))
            continue
        truncated += any(tokens.truncated for tokens in pieces)
        made += pieces
        places += [(source, position, number) for number in range(len(pieces))]
    rows = _count([*block.sources, *(reject.source for reject in block.rejects)])
    documents = ((source, position, tokens) for (source, position, _), tokens in zip(places, made, strict=True))
    turns = audit_turns(documents, tokenizer.trained, tokenizer.end_ids)
    return _flatten(block, made, places, rejects, rows, truncated, turns, weights=tokenizer.loss_weights)


def _flatten(
    block: DocumentBlock,
    made: Sequence[Tokens],
    places: Sequence[tuple[int, int, int]],
    rejects: list[Reject],
    rows: dict[int, int],
    truncated: int,
    turns: TurnAudit,
    *,
    weights: bool,
) -> TokenBlock:
    sources, positions, pieces = zip(*places, strict=True) if places else ((), (), ())
    return TokenBlock(
        key=block.key,
        input_ids=_join([tokens.input_ids for tokens in made], np.int32),
        channel=_join([tokens.channel for tokens in made], np.uint8),
        weight=_join([_weight_of(tokens) for tokens in made], np.float32) if weights else None,
        offsets=np.cumsum([0, *map(len, made)], dtype=np.int64),
        sources=np.array(sources, np.int32),
        positions=np.array(positions, np.int64),
        pieces=np.array(pieces, np.int32),
        rejects=rejects,
        rows=rows,
        bytes=block.bytes,
        truncated=truncated,
        straddling=sum(tokens.straddling for tokens in made),
        turns=turns,
    )


def _join(arrays: Sequence[npt.NDArray[Scalar]], dtype: type[Scalar]) -> npt.NDArray[Scalar]:
    return np.concatenate(arrays) if arrays else np.zeros(0, dtype)


def _weight_of(tokens: Tokens) -> npt.NDArray[np.float32]:
    return np.ones(len(tokens), np.float32) if tokens.weight is None else tokens.weight


def _count(sources: Sequence[int]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for source in sources:
        counts[source] = counts.get(source, 0) + 1
    return dict(sorted(counts.items()))


def is_held_out(url: str, position: int, share: float) -> bool:
    """Whether a row belongs to the holdout: the first 64 bits of sha256("URL\\0POSITION") lie below its share."""
    digest = hashlib.sha256(f"{url}\0{position}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
