"""Hugging Face's `tokenizers`: the tokenizer.json of a model folder."""

import copy
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from itertools import compress
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson
from tokenizers import Tokenizer

from pipeline.encoders.base import AddedToken, Encoded, TokenSpan, set_controls, tile, without_panics
from pipeline.encoders.byte_level import (
    ByteLevelBatches,
    byte_sizes,
    is_byte_level,
    normal_form,
    vocabulary_controls,
    without_added_tokens,
)
from pipeline.encoders.literal import LiteralTokenizer
from schemas.errors import ConfigError


class HuggingFaceEncoder:
    libraries: tuple[str, ...] = ("tokenizers",)

    def __init__(self, tokenizer_json: str, eos_id: int | None) -> None:
        """Raises ConfigError for added tokens that `tokenizers` numbers otherwise than the file."""
        self._source = tokenizer_json
        document = orjson.loads(tokenizer_json)
        self._unknown = document["model"].get("unk_token")
        self._tokenizer = Tokenizer.from_str(tokenizer_json)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.document_prefix: Sequence[int] = _document_prefix(self._tokenizer)
        self.document_suffix: Sequence[int] = [] if eos_id is None else [eos_id]
        self._tokenizer.post_processor = None  # it adds ids that are not in the text, and trims the spans
        self.vocab_size = max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self.is_byte_level = is_byte_level(document)
        self.normal_form: Literal["NFC"] | None = normal_form(document) if self.is_byte_level else None
        added = read_added_tokens(document)
        _check_numbers(added, self._tokenizer)
        self._set_added(added)

    def _set_added(self, added: Sequence[AddedToken]) -> None:
        self.added_tokens = tuple(added)
        controls = {token.id: token.content for token in added if token.special}
        self._literal = LiteralTokenizer(self._source, controls)
        self._is_control = np.zeros(self.vocab_size, np.bool_)
        # The unknown token is not among them: models make it of characters that they lack, whoever wrote those.
        self._is_control[[index for index, content in controls.items() if content != self._unknown]] = True

    def with_controls(self, contents: Collection[str]) -> "HuggingFaceEncoder":
        other = copy.copy(self)
        other._set_added(set_controls(self.added_tokens, contents))
        return other

    def encode(self, text: str, controls: Sequence[TokenSpan] | None) -> Encoded:
        """Where the text has the control tokens that it should have, this is what serving does, call for call."""
        with without_panics("tokenizers"):
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
        spans = np.array(encoding.offsets, np.int32).reshape(-1, 2)
        served = Encoded(np.array(encoding.ids, np.int32), spans[:, 0], spans[:, 1])
        if controls is not None:
            as_meant = self._places(served, controls).all()
            if not as_meant or self._count(served.ids) != self._count([span.id for span in controls]):
                served = self._encode_literally(text, controls)
        return tile(served, len(text))

    def _encode_literally(self, text: str, controls: Sequence[TokenSpan]) -> Encoded:
        """A control token that the tokenizer does not see where it stands (whether it sees a `normalized` one depends
        on the text around) is text, as in serving."""
        encoded = self._literal.encode(text, controls)
        made = self._places(encoded, controls)
        return encoded if made.all() else self._encode_literally(text, list(compress(controls, made)))

    def _places(self, encoded: Encoded, controls: Sequence[TokenSpan]) -> npt.NDArray[np.bool_]:
        """bool[len(controls)]: whether the id of each stands where its content does."""
        begins = np.array([span.content.start for span in controls], np.int32)
        at = np.searchsorted(encoded.starts, begins, side="right") - 1
        meant = np.array([span.id for span in controls], np.int32)
        there: npt.NDArray[np.bool_] = meant == np.append(encoded.ids, np.int32(-1))[at]
        return there & (begins < np.append(encoded.ends, np.int32(0))[at])

    def _count(self, ids: npt.ArrayLike) -> int:
        """How many control tokens there are in ids."""
        return int(self._is_control[np.asarray(ids, np.int32)].sum())

    def encode_document(self, text: str, *, parse: bool = False) -> npt.NDArray[np.int32]:
        ids = self.encode(text, None if parse else []).ids.tolist()
        return np.array([*self.document_prefix, *ids, *self.document_suffix], np.int32)

    @cached_property
    def sizes(self) -> npt.NDArray[np.int64]:
        """int64[vocab]: the bytes of each id, for a byte-level tokenizer."""
        return byte_sizes(orjson.loads(self._source), self.vocab_size)

    def batch(self) -> ByteLevelBatches | None:
        return ByteLevelBatches(self._plain_tokenizer(), self.sizes) if self.is_byte_level else None

    def _plain_tokenizer(self) -> Tokenizer:
        """Without added tokens and normalizer. It shares the model, which takes long to load, unless that could make
        control tokens by itself."""
        model, controls = self._tokenizer.model, self._controls()
        are_known = any(model.token_to_id(content) is not None for content in controls)
        if are_known and vocabulary_controls(orjson.loads(self._source), controls):
            return Tokenizer.from_str(self.plain_json().decode())
        plain = Tokenizer(model)
        plain.pre_tokenizer = self._tokenizer.pre_tokenizer
        return plain

    def plain_json(self) -> bytes:
        """The tokenizer.json of a byte-level tokenizer without its added tokens."""
        return orjson.dumps(without_added_tokens(orjson.loads(self._source), self._controls()))

    def _controls(self) -> list[str]:
        return [token.content for token in self.added_tokens if token.special]

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text


def read_added_tokens(document: Mapping[str, Any]) -> tuple[AddedToken, ...]:
    names = ("special", "lstrip", "rstrip", "single_word", "normalized")
    return tuple(
        AddedToken(entry["content"], entry["id"], **{name: bool(entry.get(name)) for name in names})
        for entry in document.get("added_tokens") or []
    )


def _check_numbers(added: Sequence[AddedToken], tokenizer: Tokenizer) -> None:
    for token in added:
        found = tokenizer.token_to_id(token.content)
        if found != token.id:
            raise ConfigError(
                f"tokenizer.json: the added token {token.content!r} has the id {token.id}, but tokenizers gives it "
                f"{found}: ids above the model's vocabulary have to follow each other, in order and without gaps"
            )


def _document_prefix(tokenizer: Tokenizer) -> list[int]:
    """The ids that the post-processor puts before a text, such as BOS."""
    whole, bare = (tokenizer.encode("a", add_special_tokens=flag).ids for flag in (True, False))
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return list(whole[:start])
    return []
