"""sentencepiece: a `.model` file (Llama 2, Mistral, Gemma and the like)."""

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt
from sentencepiece import SentencePieceProcessor

from pipeline.encoders.base import AddedToken, Encoded, TokenSpan, gaps, join_encoded

# ModelProto.normalizer_spec (field 3) with add_dummy_prefix (field 3) = false. A second occurrence of an embedded
# message is merged into the first (protobuf's encoding guide), so appending it changes this one setting.
_NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"


class SentencePieceEncoder:
    """Renderings are encoded without the dummy prefix, as chat templates write the space themselves."""

    libraries: tuple[str, ...] = ("sentencepiece",)

    def __init__(self, model: bytes) -> None:
        self._document = SentencePieceProcessor(model_proto=model)
        self._rendering = SentencePieceProcessor(model_proto=model + _NO_DUMMY_PREFIX)
        self.vocab_size: int = self._document.vocab_size()
        self.added_tokens = tuple(
            AddedToken(self._document.id_to_piece(index), index, special=True)
            for index in range(self.vocab_size)
            if self._document.is_control(index)
        )
        self._controls = {token.id: token.content for token in self.added_tokens}
        self.bos_id, self.eos_id = _known(self._document.bos_id()), _known(self._document.eos_id())

    def encode(self, text: str, controls: Sequence[TokenSpan]) -> Encoded:
        pieces = [self._encode_plain(text[start:end]) for start, end in gaps(len(text), controls)]
        return join_encoded(len(text), controls, pieces)

    def encode_document(self, text: str) -> npt.NDArray[np.int32]:
        prefix = [] if self.bos_id is None else [self.bos_id]
        suffix = [] if self.eos_id is None else [self.eos_id]
        return np.array([*prefix, *self._document.encode(text), *suffix], np.int32)

    def with_controls(self, contents: Collection[str]) -> "SentencePieceEncoder":
        return self  # a model's control pieces never come out of text, and it has no other added tokens

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

    def _encode_plain(self, text: str) -> Encoded:
        found = self._rendering.encode(text, return_type="offset_mapping")
        spans = np.array(found["offsets"], np.int32).reshape(-1, 2)
        return Encoded(np.array(found["ids"], np.int32), spans[:, 0], spans[:, 1])


def _known(index: int) -> int | None:
    return index if index >= 0 else None
