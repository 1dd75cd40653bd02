"""Hugging Face's `tokenizers`: the tokenizer.json of a model folder."""

import json
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from pipeline.encoders.base import AddedToken, Encoded, TokenFinder, TokenSpan, gaps, join_encoded


class HuggingFaceEncoder:
    libraries: tuple[str, ...] = ("tokenizers",)

    def __init__(self, tokenizer_json: str, eos_id: int | None) -> None:
        self._source = tokenizer_json, eos_id
        added = json.loads(tokenizer_json).get("added_tokens") or []
        self.added_tokens = tuple(_added_token(entry) for entry in added)
        self._tokenizer = Tokenizer.from_str(tokenizer_json)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._prefix = _document_prefix(self._tokenizer)
        self._suffix = [] if eos_id is None else [eos_id]
        self._tokenizer.post_processor = None  # it adds ids that are not in the text, and trims the spans
        self._specials = TokenFinder(token for token in self.added_tokens if token.special)
        self.vocab_size = max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str, controls: Sequence[TokenSpan]) -> Encoded:
        """Where the template wrote every control token in the text, this is what serving does, call for call."""
        if list(self._specials.find(text)) == list(controls):
            return _encoded(self._tokenizer.encode(text, add_special_tokens=False), len(text))
        pieces = [self._encode_literally(text[start:end]) for start, end in gaps(len(text), controls)]
        return join_encoded(len(text), controls, pieces)

    def _encode_literally(self, text: str) -> Encoded:
        return _encoded(self._literal.encode(text, add_special_tokens=False), len(text))

    def encode_document(self, text: str) -> npt.NDArray[np.int32]:
        ids = self._encode_literally(text).ids.tolist()
        return np.array([*self._prefix, *ids, *self._suffix], np.int32)

    def with_controls(self, contents: Collection[str]) -> "HuggingFaceEncoder":
        tokenizer_json, eos_id = self._source
        document = json.loads(tokenizer_json)
        for entry in document["added_tokens"]:
            entry["special"] |= entry["content"] in contents
        return HuggingFaceEncoder(json.dumps(document), eos_id)

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    @cached_property
    def _literal(self) -> Tokenizer:
        """The same tokenizer, but no control token comes out, whatever the text says. A second object, not a switch
        of the first: several threads of a worker may encode at once."""
        tokenizer = Tokenizer.from_str(self._tokenizer.to_str())
        tokenizer.encode_special_tokens = True
        return tokenizer


def _added_token(entry: dict[str, Any]) -> AddedToken:
    flags = {name: bool(entry.get(name)) for name in ("special", "lstrip", "rstrip", "single_word")}
    return AddedToken(entry["content"], entry["id"], **flags)


def _document_prefix(tokenizer: Tokenizer) -> list[int]:
    """The ids that the post-processor puts before a text, such as BOS."""
    whole, bare = (tokenizer.encode("a", add_special_tokens=flag).ids for flag in (True, False))
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return list(whole[:start])
    return []


def _encoded(encoding: Any, length: int) -> Encoded:
    """The spans tile the text: what normalization took in (a combining mark) belongs to the token before."""
    spans = np.array(encoding.offsets, np.int32).reshape(-1, 2)
    starts = spans[:, 0]
    following = np.append(starts, np.int32(length))[np.searchsorted(starts, starts, side="right")]
    return Encoded(np.array(encoding.ids, np.int32), starts, np.maximum(spans[:, 1], following))
