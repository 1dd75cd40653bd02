"""A tokenizer as it was loaded: its encoder, its files, its special tokens, its own chat template."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pipeline.config import Tokenizer as TokenizerConfig
from pipeline.encoders.base import Encoder
from pipeline.encoders.presets import Preset
from pipeline.encoders.tokenizer_files import TokenizerFiles

Kind = Literal["huggingface", "tiktoken", "sentencepiece"]


@dataclass(frozen=True)
class LoadedTokenizer:
    """`files` are what serving needs, by name; `special_tokens` what templates see, such as bos_token."""

    kind: Kind
    encoder: Encoder
    files: Mapping[str, bytes]
    special_tokens: Mapping[str, str]
    stop_ids: tuple[int, ...] = ()
    chat_template: str | None = None
    preset: Preset | None = field(default=None, repr=False)
    warnings: tuple[str, ...] = ()
    found: TokenizerFiles | None = field(default=None, repr=False)  # what it was loaded from

    @property
    def sha256(self) -> str:
        """Over the names and bytes of the files that decide the ids."""
        digest = hashlib.sha256()
        for name, data in sorted(self.files.items()):
            if name not in ("generation_config.json", "chat_template.jinja"):
                digest.update(f"{name}\0{len(data)}\0".encode() + data)
        return digest.hexdigest()

    def token_id(self, role: str) -> int | None:
        """The id of `bos_token`, `eos_token` or `pad_token`, None where the tokenizer has none."""
        content = self.special_tokens.get(role)
        return next((token.id for token in self.encoder.added_tokens if token.content == content), None)

    @property
    def pad_id(self) -> int:
        """Padding is never trained and never seen by a document, so any id will do where there is no pad token."""
        found = (self.token_id("pad_token"), self.token_id("eos_token"))
        return next((token_id for token_id in found if token_id is not None), 0)


def configured_tokens(config: TokenizerConfig) -> dict[str, str]:
    given = {"bos_token": config.bos_token, "eos_token": config.eos_token, "pad_token": config.pad_token}
    return {key: value for key, value in given.items() if value is not None}
