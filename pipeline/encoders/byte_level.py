"""Byte-level BPE in a tokenizer.json: whether it is nothing else, and the same without its added tokens."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson
from tokenizers import Tokenizer, pre_tokenizers

from pipeline.encoders.batch import EncodedBatch, Strings, join_ids

_OTHER_MODELS = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
"""Settings of a BPE model that make it something else."""


def is_byte_level(document: Mapping[str, Any]) -> bool:
    """Whether each stretch of text between added tokens is encoded by itself, by bytes: GPT-2's kind of tokenizer."""
    model = document["model"]
    return (
        model.get("type") == "BPE"
        and not any(model.get(name) for name in _OTHER_MODELS)
        and model["vocab"].keys() >= set(pre_tokenizers.ByteLevel.alphabet())  # so no character is unknown
        and _splits_bytes(document.get("pre_tokenizer"))
        and all(step["type"] == "NFC" for step in _steps(document.get("normalizer"), "normalizers"))
    )


def normal_form(document: Mapping[str, Any]) -> Literal["NFC"] | None:
    """Of a byte-level tokenizer."""
    return "NFC" if _steps(document.get("normalizer"), "normalizers") else None


def _splits_bytes(pre_tokenizer: Mapping[str, Any] | None) -> bool:
    *splits, last = _steps(pre_tokenizer, "pretokenizers") or [{"type": "none"}]
    is_last = last["type"] == "ByteLevel" and not last.get("add_prefix_space", True)
    return is_last and all(step["type"] == "Split" for step in splits)


def _steps(part: Mapping[str, Any] | None, key: str) -> list[Mapping[str, Any]]:
    """A normalizer or pre-tokenizer as a list, which a Sequence has under `key`."""
    if part is None:
        return []
    return [step for each in part[key] for step in _steps(each, key)] if part["type"] == "Sequence" else [part]


def byte_level_json(ranks: Mapping[bytes, int], pattern: str) -> bytes:
    """A tokenizer.json that encodes as tiktoken does: a word that is a token is that one; else two neighbours are
    merged wherever they make a token, so each split of a token into two is a merge."""
    letters = _byte_letters()
    names = {token: "".join(map(letters.__getitem__, token)) for token in ranks}
    merges = [
        f"{names[token[:at]]} {names[token[at:]]}"
        for token in sorted(ranks, key=ranks.__getitem__)
        for at in range(1, len(token))
        if token[at:] in ranks and token[:at] in ranks
    ]
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    vocab = {names[token]: rank for token, rank in ranks.items()}
    document = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, to_bytes]},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges, "ignore_merges": True},
    }
    return orjson.dumps(document)


def _byte_letters() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def without_added_tokens(document: Mapping[str, Any], controls: Collection[str]) -> dict[str, Any]:
    """A byte-level tokenizer.json that makes added tokens of nothing. Where `controls` are entries of the model's
    vocabulary too, these come out no more: they get names of characters that stand for no byte."""
    model = {**document["model"], "unk_token": None}
    taken = vocabulary_controls(document, controls)
    if taken:
        names = {piece: f"\ufde0{number}" for number, piece in enumerate(sorted(taken))}
        model["vocab"] = {names.get(piece, piece): index for piece, index in model["vocab"].items()}
        model["merges"] = [pair for pair in _merges(model) if taken.isdisjoint((*pair, "".join(pair)))]
    return {**document, "model": model, "added_tokens": [], "normalizer": None, "post_processor": None}


def vocabulary_controls(document: Mapping[str, Any], controls: Collection[str]) -> set[str]:
    """The controls that the model could make of text by itself."""
    model = document["model"]
    taken: set[str] = model["vocab"].keys() & set(controls)
    return taken if model.get("ignore_merges") else taken and taken & {"".join(pair) for pair in _merges(model)}


def _merges(model: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    return (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])


def byte_sizes(document: Mapping[str, Any], vocab_size: int) -> npt.NDArray[np.int64]:
    """int64[vocab]: the bytes of each id, one a character of its piece; 0 for other pieces and for added tokens."""
    added = {token["id"] for token in document.get("added_tokens") or []}
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    sizes = np.zeros(vocab_size, np.int64)
    for piece, index in document["model"]["vocab"].items():
        if index not in added and alphabet.issuperset(piece):
            sizes[index] = len(piece)
    return sizes


class ByteLevelBatches:
    """`tokenizers`, text by text; its tokenizer has no added tokens."""

    name = "tokenizers"

    def __init__(self, tokenizer: Tokenizer, sizes: npt.NDArray[np.int64]) -> None:
        self.sizes = sizes
        self._tokenizer = tokenizer

    def encode(self, texts: Strings) -> EncodedBatch:
        return join_ids(self._tokenizer.encode(text, add_special_tokens=False).ids for text in texts)
