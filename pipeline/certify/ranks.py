"""The ids of a rank file by tiktoken alone: all added tokens are given to it as special tokens, and it parses them."""

import base64
import re
import unicodedata
from dataclasses import dataclass

import tiktoken

from pipeline.config import Tokenizer
from pipeline.encoders.loaded import LoadedTokenizer


@dataclass(frozen=True)
class RankOracle:
    ranks: tiktoken.Encoding
    prefix: list[int]
    suffix: list[int]
    nfc: bool

    def encode(self, text: str) -> list[int]:
        """A rendering. Unicode is normalized between special tokens, as they are looked for first."""
        if self.nfc:
            tokens = sorted(self.ranks.special_tokens_set, key=len, reverse=True)
            pieces = re.split(f"({'|'.join(map(re.escape, tokens))})", text)
            text = "".join(unicodedata.normalize("NFC", piece) for piece in pieces)
        return self.ranks.encode(text, allowed_special="all")

    def encode_document(self, text: str) -> list[int]:
        return [*self.prefix, *self.encode(text), *self.suffix]


def load_rank_oracle(settings: Tokenizer, tokenizer: LoadedTokenizer) -> RankOracle:
    (data,) = tokenizer.files.values()
    lines = (line.split() for line in data.splitlines())
    preset = tokenizer.preset
    pattern = settings.pattern or (preset.pattern if preset else None)
    assert pattern is not None
    special = {token.content: token.id for token in tokenizer.encoder.added_tokens}
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    prefix, suffix = ([i for i in [tokenizer.token_id(role)] if i is not None] for role in ("bos_token", "eos_token"))
    encoding = tiktoken.Encoding("served", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
    return RankOracle(encoding, prefix, suffix, preset.nfc if preset else False)
