"""Mistral's Tekken: a JSON file of byte-pair ranks whose control tokens come before the ranks."""

import base64
from typing import Any

from pipeline.encoders.base import AddedToken
from pipeline.encoders.byte_pairs import BytePairEncoder
from pipeline.encoders.special_tokens import GivenTokens
from schemas.errors import ConfigError

# Files before version 7 name no control tokens; these are those of mistral-common's first Tekken tokenizers.
_FIRST_NAMES = (
    "<unk> <s> </s> [INST] [/INST] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_RESULTS] [/TOOL_RESULTS] [TOOL_CALLS] "
    "[IMG] <pad> [IMG_BREAK] [IMG_END] [PREFIX] [MIDDLE] [SUFFIX] [SYSTEM_PROMPT] [/SYSTEM_PROMPT] [TOOL_CONTENT]"
)


def is_tekken(document: dict[str, Any]) -> bool:
    return "vocab" in document and "pattern" in document.get("config", {})


def tekken_encoder(document: dict[str, Any], bos: str, eos: str) -> BytePairEncoder:
    settings = document["config"]
    control_count = settings["default_num_special_tokens"]
    added = _control_tokens(document)
    ranks = {
        base64.b64decode(entry["token_bytes"]): entry["rank"]
        for entry in document["vocab"][: settings["default_vocab_size"] - control_count]
    }
    ids = {token.content: token.id for token in added}
    return BytePairEncoder(
        ranks, settings["pattern"], added, first_id=control_count, prefix=[ids[bos]], suffix=[ids[eos]]
    )


def with_given_tokens(document: dict[str, Any], given: GivenTokens) -> dict[str, str]:
    """Renames control tokens of a Tekken file, in place; gives the new names by the old ones. Raises ConfigError."""
    own = _control_tokens(document)
    merged = given.merge(own, range(len(own), document["config"]["default_vocab_size"]))
    for token in given.tokens:
        if token.id >= len(own) or not token.special:
            raise ConfigError(
                f"tokenizer.special_tokens: {token.content!r}: a Tekken file has control tokens alone, with ids below "
                f"{len(own)}; give a free one of these ids, and special: true"
            )
    document["special_tokens"] = [
        {"rank": token.id, "token_str": token.content, "is_control": True} for token in merged
    ]
    return given.renamed(own)


def _control_tokens(document: dict[str, Any]) -> list[AddedToken]:
    names = [entry["token_str"] for entry in document.get("special_tokens") or []] or _FIRST_NAMES.split()
    count = document["config"]["default_num_special_tokens"]
    names += [f"<SPECIAL_{index}>" for index in range(len(names), count)]
    return [AddedToken(name, index, special=True) for index, name in enumerate(names)]
