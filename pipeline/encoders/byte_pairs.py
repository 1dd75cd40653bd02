"""tiktoken: a rank file with a pattern (Llama 3, Qwen, Tekken, cl100k and the like)."""

import copy
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import tiktoken

from pipeline.encoders.base import (
    AddedToken,
    Encoded,
    TokenFinder,
    TokenSpan,
    gaps,
    join_encoded,
    set_controls,
    without_panics,
)
from pipeline.encoders.batch import EncodedBatch, Strings, join_ids
from pipeline.encoders.normalization import nfc_with_origins


class BytePairEncoder:
    """`first_id` is the id of rank 0 (Tekken puts its control tokens before the ranks)."""

    libraries: tuple[str, ...] = ("tiktoken",)

    def __init__(
        self,
        ranks: Mapping[bytes, int],
        pattern: str,
        added_tokens: Sequence[AddedToken],
        *,
        first_id: int = 0,
        nfc: bool = False,
        prefix: Sequence[int] = (),
        suffix: Sequence[int] = (),
    ) -> None:
        self.ranks, self.pattern, self.first_id = ranks, pattern, first_id
        self._ranks = tiktoken.Encoding("ranks", pat_str=pattern, mergeable_ranks=dict(ranks), special_tokens={})
        self._set_added(added_tokens)
        self._names = {token.id: token.content.encode() for token in added_tokens}
        self.normal_form: Literal["NFC"] | None = "NFC" if nfc else None
        self.document_prefix: Sequence[int] = tuple(prefix)
        self.document_suffix: Sequence[int] = tuple(suffix)
        self._sizes = np.zeros(max(ranks.values()) + 1, np.int64)  # bytes of each rank
        for token, rank in ranks.items():
            self._sizes[rank] = len(token)
        self.vocab_size = max([first_id + len(self._sizes) - 1, *self._names]) + 1

    def _set_added(self, added_tokens: Sequence[AddedToken]) -> None:
        self.added_tokens = tuple(added_tokens)
        self._all = _Finders(added_tokens)
        self._plain = _Finders([token for token in added_tokens if not token.special])

    def with_controls(self, contents: Collection[str]) -> "BytePairEncoder":
        other = copy.copy(self)
        other._set_added(set_controls(self.added_tokens, contents))
        return other

    def encode(self, text: str, controls: Sequence[TokenSpan] | None) -> Encoded:
        if controls is None:
            return self._encode_with(self._all, text)
        pieces = [self._encode_with(self._plain, text[start:end]) for start, end in gaps(len(text), controls)]
        return join_encoded(len(text), controls, pieces)

    def encode_document(self, text: str, *, parse: bool = False) -> npt.NDArray[np.int32]:
        ids = self.encode(text, None if parse else []).ids
        return np.concatenate([np.array(self.document_prefix, np.int32), ids, np.array(self.document_suffix, np.int32)])

    def batch(self) -> "BytePairBatches":
        sizes = np.zeros(self.vocab_size, np.int64)
        sizes[self.first_id : self.first_id + len(self._sizes)] = self._sizes
        return BytePairBatches(self._ranks, self.first_id, sizes)

    def decode(self, ids: Sequence[int]) -> str:
        tokens = (self._names.get(i) or self._ranks.decode_single_token_bytes(i - self.first_id) for i in ids)
        return b"".join(tokens).decode("utf-8", errors="replace")

    def _encode_with(self, finders: "_Finders", text: str) -> Encoded:
        """Text in which the added tokens of `finders` come out, those of the normalized text after the others."""
        spans = list(finders.given.find(text))
        pieces = [self._normalize_and_encode(finders, text[start:end]) for start, end in gaps(len(text), spans)]
        return join_encoded(len(text), spans, pieces)

    def _normalize_and_encode(self, finders: "_Finders", text: str) -> Encoded:
        if self.normal_form and not unicodedata.is_normalized("NFC", text):
            normalized, origins = nfc_with_origins(text)
            encoded = self._normalize_and_encode(finders, normalized)
            ends = np.append(origins, np.int32(len(text)))[encoded.ends]
            return Encoded(encoded.ids, origins[encoded.starts], ends)
        spans = list(finders.normalized.find(text))
        pieces = [self._encode_ranks(text[start:end]) for start, end in gaps(len(text), spans)]
        return join_encoded(len(text), spans, pieces)

    def _encode_ranks(self, text: str) -> Encoded:
        ranks = np.array(_encode_ordinary(self._ranks, text), np.int64)
        byte_ends = np.cumsum(self._sizes[ranks])
        starts, ends = _characters(text, byte_ends - self._sizes[ranks], byte_ends)
        return Encoded((ranks + self.first_id).astype(np.int32), starts, ends)


class BytePairBatches:
    """tiktoken's `encode_ordinary`, text by text."""

    name = "tiktoken"

    def __init__(self, ranks: tiktoken.Encoding, first_id: int, sizes: npt.NDArray[np.int64]) -> None:
        self.sizes = sizes
        self._ranks = ranks
        self._first_id = first_id

    def encode(self, texts: Strings) -> EncodedBatch:
        encoded = join_ids(_encode_ordinary(self._ranks, text) for text in texts)
        return EncodedBatch(encoded.ids + np.int32(self._first_id), encoded.offsets)


class _Finders:
    """Of added tokens that are looked for in the given text, and of those in the normalized text."""

    def __init__(self, tokens: Sequence[AddedToken]) -> None:
        self.given = TokenFinder(token for token in tokens if not token.normalized)
        self.normalized = TokenFinder(token for token in tokens if token.normalized)


def _encode_ordinary(ranks: tiktoken.Encoding, text: str) -> list[int]:
    with without_panics("tiktoken"):
        return ranks.encode_ordinary(text)


def _characters(
    text: str, byte_starts: npt.NDArray[np.int64], byte_ends: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """From spans of UTF-8 bytes to spans of characters; a character cut by a border is in both spans."""
    if text.isascii():
        return byte_starts.astype(np.int32), byte_ends.astype(np.int32)
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    sizes = 1 + (codes >= 0x80).astype(np.int8) + (codes >= 0x800) + (codes >= 0x10000)
    character = np.repeat(np.arange(len(codes), dtype=np.int32), sizes)
    return character[byte_starts], character[byte_ends - 1] + np.int32(1)
