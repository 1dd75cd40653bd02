"""Hugging Face's `tokenizers`: the tokenizer.json of a model folder."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from pipeline.encoders.base import AddedToken, Encoded, TokenFinder, TokenSpan, gaps, join_encoded


class HuggingFaceEncoder:
    libraries: tuple[str, ...] = ("tokenizers",)

    def __init__(self, tokenizer_json: str, eos_id: int | None) -> None:
        settings = json.loads(tokenizer_json)
        self.added_tokens = tuple(_added_token(entry) for entry in settings.get("added_tokens") or [])
        self._prefix = _document_prefix(tokenizer_json)
        self._suffix = [] if eos_id is None else [eos_id]
        # Post-processors add ids that are not in the text and trim the spans; neither is wanted here.
        plain = json.dumps({**settings, "post_processor": None, "truncation": None, "padding": None})
        self._served = Tokenizer.from_str(plain)
        self._literal = Tokenizer.from_str(plain)
        self._literal.encode_special_tokens = True
        self._specials = TokenFinder(token for token in self.added_tokens if token.special)
        self.vocab_size = max(self._served.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str, controls: Sequence[TokenSpan]) -> Encoded:
        """Where the template wrote every control token in the text, this is what serving does, call for call."""
        if list(self._specials.find(text)) == list(controls):
            return _encoded(self._served.encode(text, add_special_tokens=False))
        pieces = [self._literal.encode(text[a:b], add_special_tokens=False) for a, b in gaps(len(text), controls)]
        return join_encoded(len(text), controls, [_encoded(piece) for piece in pieces])

    def encode_document(self, text: str) -> npt.NDArray[np.int32]:
        ids = self._literal.encode(text, add_special_tokens=False).ids
        return np.array([*self._prefix, *ids, *self._suffix], np.int32)

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._served.decode(list(ids), skip_special_tokens=False)
        return text


def _added_token(entry: dict[str, Any]) -> AddedToken:
    flags = {name: bool(entry.get(name)) for name in ("special", "lstrip", "rstrip", "single_word")}
    return AddedToken(entry["content"], entry["id"], **flags)


def _document_prefix(tokenizer_json: str) -> list[int]:
    """The ids that the post-processor puts before a text, such as BOS."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    whole, bare = (tokenizer.encode("a", add_special_tokens=flag).ids for flag in (True, False))
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return list(whole[:start])
    return []


def _encoded(encoding: Any) -> Encoded:
    spans = np.array(encoding.offsets, np.int32).reshape(-1, 2)
    return Encoded(np.array(encoding.ids, np.int32), spans[:, 0], spans[:, 1])
