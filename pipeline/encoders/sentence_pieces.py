"""sentencepiece: a `.model` file (Llama 2, Mistral, Gemma and the like)."""

import copy
from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from sentencepiece import SentencePieceProcessor

from pipeline.encoders.base import (
    AddedToken,
    Encoded,
    TokenFinder,
    TokenSpan,
    gaps,
    join_encoded,
    set_controls,
    tile,
)
from pipeline.encoders.sentence_model import PieceType, change_pieces, piece_types
from pipeline.encoders.special_tokens import GivenTokens
from schemas.errors import ConfigError

# ModelProto.normalizer_spec (field 3) with add_dummy_prefix (field 3) = false. A second occurrence of an embedded
# message is merged into the first (protobuf's encoding guide), so appending it changes this one setting.
_NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"


class SentencePieceEncoder:
    """Renderings are encoded without the dummy prefix, as chat templates write the space themselves.

    The added tokens are the control pieces and the user-defined ones, which sentencepiece makes of their text wherever
    it stands. User-defined pieces that are control tokens are control pieces in the model that encodes.
    """

    libraries: tuple[str, ...] = ("sentencepiece",)
    normal_form: Literal["NFC"] | None = None

    def __init__(self, model: bytes) -> None:
        self._model = model
        processor = SentencePieceProcessor(model_proto=model)
        self.vocab_size: int = processor.vocab_size()
        self.bos_id, self.eos_id = _known(processor.bos_id()), _known(processor.eos_id())
        self.document_prefix: Sequence[int] = [] if self.bos_id is None else [self.bos_id]
        self.document_suffix: Sequence[int] = [] if self.eos_id is None else [self.eos_id]
        added = _added_tokens(model, piece_types(model))
        self._own_controls = {token.id for token in added if token.special}
        self._set_added(added)

    def _set_added(self, added: Sequence[AddedToken]) -> None:
        self.added_tokens = tuple(added)
        self._controls = {token.id: token.content for token in added if token.special}
        self._finder = TokenFinder(token for token in added if token.special)
        changes = {token.id: (token.content, PieceType.CONTROL) for token in added if token.special}
        model = self._model
        if not self._own_controls.issuperset(changes):
            model = change_pieces(model, changes)
        self._document = SentencePieceProcessor(model_proto=model)
        self._rendering = SentencePieceProcessor(model_proto=model + _NO_DUMMY_PREFIX)

    def with_controls(self, contents: Collection[str]) -> "SentencePieceEncoder":
        """A model's own control pieces never come out of its text: they stay control tokens, named or not."""
        own = {token.content for token in self.added_tokens if token.id in self._own_controls}
        other = copy.copy(self)
        other._set_added(set_controls(self.added_tokens, own.union(contents)))
        return other

    def encode(self, text: str, controls: Sequence[TokenSpan] | None) -> Encoded:
        controls = list(self._finder.find(text)) if controls is None else controls
        pieces = [_encode(self._rendering, text[start:end]) for start, end in gaps(len(text), controls)]
        return tile(join_encoded(len(text), controls, pieces), len(text))

    def encode_document(self, text: str, *, parse: bool = False) -> npt.NDArray[np.int32]:
        first = next(self._finder.find(text), None) if parse else None
        start = len(text) if first is None else first.start
        begin, rest = self._document.encode(text[:start]), self.encode(text[start:], None).ids
        return np.array([*self.document_prefix, *begin, *rest, *self.document_suffix], np.int32)

    def batch(self) -> None:
        """Its normalizer looks at the whole text."""

    def decode(self, ids: Sequence[int]) -> str:
        """Runs of plain pieces between control tokens; the leading space of a run stays."""
        parts: list[str] = []
        run: list[str] = []
        for index in ids:
            if index in self._controls:
                parts += [self._join(run), self._controls[index]]
                run = []
            else:
                run.append(self._document.id_to_piece(int(index)))
        return "".join([*parts, self._join(run)])

    def _join(self, pieces: list[str]) -> str:
        return str(self._rendering.decode_pieces(pieces)) if pieces else ""


def with_given_tokens(model: bytes, given: GivenTokens) -> bytes:
    """The model file with further control pieces and user-defined pieces, or others' texts changed. Raises
    ConfigError."""
    types = piece_types(model)
    free = (PieceType.CONTROL, PieceType.USER_DEFINED, PieceType.UNUSED)
    given.merge(_added_tokens(model, types), {index for index, kind in enumerate(types) if kind not in free})
    added = sorted(token.id for token in given.tokens if token.id >= len(types))
    if added != list(range(len(types), len(types) + len(added))):
        raise ConfigError(
            f"tokenizer.special_tokens: the ids {added} leave gaps: a sentencepiece model with {len(types)} pieces "
            f"takes further ones from {len(types)} on"
        )
    kinds = {True: PieceType.CONTROL, False: PieceType.USER_DEFINED}
    return change_pieces(model, {token.id: (token.content, kinds[token.special]) for token in given.tokens})


def _added_tokens(model: bytes, types: Sequence[PieceType]) -> list[AddedToken]:
    """Control pieces and user-defined ones. Runs of white space are ordinary vocabulary, whatever their type."""
    processor = SentencePieceProcessor(model_proto=model)
    indexes = (i for i, kind in enumerate(types) if kind in (PieceType.CONTROL, PieceType.USER_DEFINED))
    pieces = ((processor.id_to_piece(index), index) for index in indexes)
    return [
        AddedToken(content, index, special=types[index] == PieceType.CONTROL)
        for content, index in pieces
        if content.strip("\u2581 \t\r\n")
    ]


def _encode(processor: SentencePieceProcessor, text: str) -> Encoded:
    found = processor.encode(text, return_type="offset_mapping")
    spans = np.array(found["offsets"], np.int32).reshape(-1, 2)
    return Encoded(np.array(found["ids"], np.int32), spans[:, 0], spans[:, 1])


def _known(index: int) -> int | None:
    return index if index >= 0 else None
