"""A tokenizer that makes control tokens where its caller says, and of nothing that the text says.

Control tokens get names that no text holds, in a copy of the tokenizer.json: as added tokens, and in the model's
vocabulary, since some models look whole words up in it. Where a control token is meant, its name is put into the
text, so that the tokenizer does all else as ever: white space that a token takes in, prefix spaces, normalization.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from pipeline.encoders.base import NAME_BEGIN, Encoded, EncodingFailed, TokenSpan, without_panics

# A name is NAME_BEGIN and four more noncharacters of Unicode, U+FDD0 to U+FDDF.
_NAME = re.compile(NAME_BEGIN + "[\ufdd0-\ufddf]{4}")


def _name(number: int) -> str:
    return NAME_BEGIN + "".join(chr(0xFDD0 + (number >> shift & 15)) for shift in (12, 8, 4, 0))


class LiteralTokenizer:
    def __init__(self, tokenizer_json: str, controls: Mapping[int, str]) -> None:
        """`controls`: contents by id."""
        self._source = tokenizer_json
        self._contents = controls
        self._names = {token_id: _name(number) for number, token_id in enumerate(controls)}

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        """A second object, not a switch of the first: several threads of a worker may encode at once."""
        document = json.loads(self._source)
        _rename(document, {content: self._names[token_id] for token_id, content in self._contents.items()})
        tokenizer = Tokenizer.from_str(json.dumps(document))
        if tokenizer.normalizer is not None and not tokenizer.normalizer.normalize_str(_name(0)).endswith(_name(0)):
            raise EncodingFailed("the tokenizer's normalizer removes what tells control tokens from typed ones")
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def encode(self, text: str, controls: Sequence[TokenSpan]) -> Encoded:
        """Raises EncodingFailed for a text that holds such a name, and where the normalizer removes them."""
        if _NAME.search(text):
            raise EncodingFailed("the text holds a sequence of noncharacters (U+FDE0, U+FDD0 to U+FDDF)")
        pieces, places, position = [], [], 0
        for span in controls:
            content = span.content
            pieces += [text[position : content.start], self._names[span.id]]
            places += [np.arange(position, content.start), np.full(len(pieces[-1]), content.start)]
            position = content.stop
        places.append(np.arange(position, len(text) + 1))
        with without_panics("tokenizers"):
            encoding = self._tokenizer.encode("".join([*pieces, text[position:]]), add_special_tokens=False)
        spans = np.concatenate(places).astype(np.int32)[np.array(encoding.offsets, np.int64).reshape(-1, 2)]
        return Encoded(np.array(encoding.ids, np.int32), spans[:, 0], spans[:, 1])


def _rename(document: dict[str, Any], names: Mapping[str, str]) -> None:
    document["post_processor"] = None
    for entry in document.get("added_tokens") or []:
        entry["content"] = names.get(entry["content"], entry["content"])
    model = document["model"]
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        model["vocab"] = {names.get(piece, piece): index for piece, index in vocab.items()}
    else:
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocab]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if not names.keys().isdisjoint(vocab if isinstance(vocab, dict) else ()):
        merges = (merge.split(" ") if isinstance(merge, str) else merge for merge in model.get("merges", []))
        model["merges"] = [pair for pair in merges if names.keys().isdisjoint((*pair, "".join(pair)))]
