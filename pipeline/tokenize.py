"""From documents to flat arrays of tokens, and the rules about which documents may stay."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.blocks import DocumentBlock
from pipeline.chat.control_tokens import check_no_control_token
from pipeline.chat.formatter import ChatFormatter, Tokens
from pipeline.chat.layout import DocumentLayout
from pipeline.columnar.rules import Rules
from pipeline.columnar.sample import check_sample
from pipeline.columnar.sheet_tokens import Layouts, nothing_written
from pipeline.columnar.tokenizer import SheetTokenizer
from pipeline.config import BuildConfig
from pipeline.encoders.base import Encoder, EncodingFailed
from pipeline.encoders.batch import BatchEncoder
from pipeline.shorten import drop_last_turns
from pipeline.token_block import TokenBlock
from pipeline.turns import TurnAudit, audit_turns, merge_audits
from schemas.channels import NO_LOSS, Part, Role, pack_channel
from schemas.conversation import Conversation, Document, TextDocument
from schemas.rejects import Reason, Reject, RejectRow

Scalar = TypeVar("Scalar", bound=np.generic)


class DocumentTokenizer:
    """Applies the config's rules: `too_long`, control tokens, the loss policy, weights. `formatter` may be None for
    text alone."""

    def __init__(
        self, config: BuildConfig, encoder: Encoder, formatter: ChatFormatter | None, batch: BatchEncoder | None = None
    ) -> None:
        self.seq_len = config.seq_len
        self.too_long = config.too_long
        self.loss_weights = config.loss_weights
        self.trained = config.loss_policy.table()
        self.end_ids = frozenset(formatter.end_ids if formatter else ())
        self.encoder = encoder
        self.batch = batch
        self._formatter = formatter
        self._mode = config.control_tokens.mode
        self._controls = [token.content for token in encoder.added_tokens if token.special]
        rules = Rules(config.seq_len, config.too_long, self.trained)
        self.sheets = batch and SheetTokenizer(formatter, encoder, batch, rules, self._lay_out, mode=self._mode)

    def start_block(self) -> None:
        if self._formatter is not None:
            self._formatter.start_block()

    def tokenize(
        self, document: Document, layouts: Sequence[DocumentLayout] | None = None, *, replay: bool = True
    ) -> list[Tokens]:
        """The documents that a row gives: one, or several where a text or a history is split. `layouts` are those of a
        conversation that has been laid out. Without `replay` the template itself renders. Raises RejectRow."""
        self._check_controls(document)
        try:
            if layouts is not None and self._formatter is not None:
                documents = [self._formatter.encode_layout(layout) for layout in layouts]
            else:
                documents = self._documents(document, replay=replay)
            fitting = self._fit(documents, document)
        except UnicodeEncodeError as error:
            raise RejectRow(Reason.UNENCODABLE, f"a lone surrogate: {error.reason}") from error
        except EncodingFailed as error:
            raise RejectRow(Reason.UNENCODABLE, str(error)) from error
        trained = [tokens for tokens in fitting if self.trained[tokens.channel].any()]
        if not trained:
            raise RejectRow(Reason.NO_TRAINED_TOKENS, "no token of it is trained under loss_policy")
        return trained if isinstance(document, Conversation) else fitting

    def _check_controls(self, document: Document) -> None:
        if self._mode == "reject":
            check_no_control_token(document, self._controls)

    def _lay_out(self, conversation: Conversation) -> list[DocumentLayout]:
        self._check_controls(conversation)
        return self._need_formatter().lay_out_documents(conversation)

    def _documents(self, document: Document, *, replay: bool = True) -> list[Tokens]:
        if isinstance(document, Conversation):
            return self._need_formatter().documents(document, replay=replay)
        ids = self.encoder.encode_document(document.text, parse=self._mode == "parse")
        return [Tokens(ids, text_channels(len(ids), self.encoder, ids))]

    def _need_formatter(self) -> ChatFormatter:
        if self._formatter is None:
            raise RejectRow(Reason.TEMPLATE_ERROR, "the tokenizer has no chat template; set chat_template")
        return self._formatter

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
    """Each row gives its documents or one reject. Those that sheets can write are written together."""
    tokenizer.start_block()
    rows = dict.fromkeys(range(len(block.documents)))
    written = tokenizer.sheets.tokenize(block) if tokenizer.sheets else nothing_written(rows)
    reference = partial(tokenizer.tokenize, replay=False)
    difference = check_sample(block, written, tokenizer.sheets, reference) if tokenizer.sheets else None
    singly = _tokenize_singly(block, written.left, tokenizer)
    tokens, kept = written.tokens, written.kept
    row, piece = np.append(written.row, singly.row), np.append(kept.piece, singly.piece)
    order = np.lexsort((piece, row))
    of_row = row[order]
    return TokenBlock(
        key=block.key,
        input_ids=_join([tokens.input_ids, singly.input_ids]),
        channel=_join([tokens.channel, singly.channel]),
        weight=_join([np.ones(len(tokens.channel), np.float32), singly.weight]) if tokenizer.loss_weights else None,
        starts=np.append(kept.start, singly.start + len(tokens.channel))[order],
        lengths=np.append(kept.length, singly.length)[order],
        sources=np.array(block.sources, np.int32)[of_row],
        positions=np.array(block.positions, np.int64)[of_row],
        pieces=piece[order].astype(np.int32),
        rejects=[*block.rejects, *_rejects(block, (*written.rejects, *singly.rejects))],
        rows=_count([*block.sources, *(reject.source for reject in block.rejects)]),
        bytes=block.bytes,
        truncated=written.truncated + singly.truncated,
        straddling=written.straddling + singly.straddling,
        turns=merge_audits(written.turns, singly.turns),
        difference=difference,
    )


def _rejects(block: DocumentBlock, found: Iterable[tuple[int, Reason, str]]) -> Iterator[Reject]:
    """In the order of the rows."""
    return (Reject(block.sources[row], block.positions[row], reason, detail) for row, reason, detail in sorted(found))


class _Singly:
    """Documents of the reference, end to end."""

    def __init__(self, documents: list[tuple[int, int, Tokens]], rejects: list[tuple[int, Reason, str]]) -> None:
        made = [tokens for _, _, tokens in documents]
        self.row = np.array([row for row, _, _ in documents], np.int64)
        self.piece = np.array([piece for _, piece, _ in documents], np.int64)
        self.length = np.array(list(map(len, made)), np.int64)
        self.start = np.cumsum(self.length) - self.length
        self.input_ids = np.concatenate([np.zeros(0, np.int32), *(tokens.input_ids for tokens in made)])
        self.channel = np.concatenate([np.zeros(0, np.uint8), *(tokens.channel for tokens in made)])
        self.weight = np.concatenate([np.zeros(0, np.float32), *map(_weight_of, made)])
        self.truncated = len({row for row, _, tokens in documents if tokens.truncated})
        self.straddling = sum(tokens.straddling for tokens in made)
        self.rejects = rejects
        self.turns = TurnAudit()


def _tokenize_singly(block: DocumentBlock, rows: Layouts, tokenizer: DocumentTokenizer) -> _Singly:
    documents: list[tuple[int, int, Tokens]] = []
    rejects: list[tuple[int, Reason, str]] = []
    for row, layouts in sorted(rows.items()):
        try:
            pieces = tokenizer.tokenize(block.documents[row], layouts)
            documents += [(row, number, tokens) for number, tokens in enumerate(pieces)]
        except RejectRow as reject:
            rejects.append((row, reject.reason, reject.detail))
    made = _Singly(documents, rejects)
    audited = ((block.sources[row], block.positions[row], tokens) for row, _, tokens in documents)
    made.turns = audit_turns(audited, tokenizer.trained, tokenizer.end_ids)
    return made


def _join(arrays: Sequence[npt.NDArray[Scalar]]) -> npt.NDArray[Scalar]:
    filled = [array for array in arrays if len(array)]
    return filled[0] if len(filled) == 1 else np.concatenate(arrays)


def _weight_of(tokens: Tokens) -> npt.NDArray[np.float32]:
    return np.ones(len(tokens), np.float32) if tokens.weight is None else tokens.weight


def _count(sources: Iterable[int]) -> dict[int, int]:
    return dict(sorted(Counter(sources).items()))
