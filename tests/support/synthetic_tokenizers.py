"""Small tokenizers of every make that `tokenizers` knows, with added tokens of every flag."""

import json
import string
from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

LETTERS = {letter: number for number, letter in enumerate(string.printable + "\u2581\u0120\u010a\u0301\u0338\u226f")}
PLAIN = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
TOKENS: dict[str, Mapping[str, bool]] = {
    "<s>": {"special": True},
    "<|end|>": {"special": True, "rstrip": True},
    "<|left|>": {"special": True, "lstrip": True},
    "<|endx": {"special": True},  # begins as <|end|> does
    "word": {"special": True, "single_word": True},
    "<N>": {"special": True, "normalized": True},
    "<think>": {"special": False},
    "</think>": {"special": False, "lstrip": True, "rstrip": True},
    "fed": {"special": False, "single_word": True, "normalized": True},
    "<plain>": {"special": False, "normalized": True},
}


def _bpe(pre_tokenizer: Any = None, normalizer: Any = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(vocab=LETTERS, merges=[]))
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return tokenizer


def _unigram() -> Tokenizer:
    """A vocabulary that holds the text of control tokens as pieces."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("<|end|>", 0.0), *((letter, -2.0) for letter in LETTERS)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")  # type: ignore[assignment]
    return tokenizer


def _kinds() -> dict[str, Any]:
    legacy = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    return {
        "letters": _bpe,
        "Metaspace, prepend first": lambda: _bpe(pre_tokenizers.Metaspace(prepend_scheme="first")),
        "Metaspace, prepend always": lambda: _bpe(pre_tokenizers.Metaspace(prepend_scheme="always")),
        "Metaspace, prepend never": lambda: _bpe(pre_tokenizers.Metaspace(prepend_scheme="never")),
        "Prepend and Replace (Llama 2)": lambda: _bpe(normalizer=legacy),
        "ByteLevel, prefix space": lambda: _bpe(pre_tokenizers.ByteLevel(add_prefix_space=True)),
        "NFC": lambda: _bpe(normalizer=normalizers.NFC()),
        "NFKC, Lowercase": lambda: _bpe(normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])),
        "Unigram with controls as pieces": _unigram,
    }


KINDS = tuple(_kinds())


def make_json(kind: str) -> str:
    tokenizer = _kinds()[kind]()
    for content, flags in TOKENS.items():
        tokenizer.add_tokens([AddedToken(content, **{**PLAIN, **flags})])
    source: str = tokenizer.to_str()
    assert [entry["content"] for entry in json.loads(source)["added_tokens"]]
    return source
