"""Mistral's Tekken: a JSON file of byte-pair ranks whose control tokens come before the ranks."""

import base64
from typing import Any

from pipeline.encoders.base import AddedToken
from pipeline.encoders.byte_pairs import BytePairEncoder

# Files before version 7 name no control tokens; these are those of mistral-common's first Tekken tokenizers.
_FIRST_NAMES = (
    "<unk> <s> </s> [INST] [/INST] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_RESULTS] [/TOOL_RESULTS] [TOOL_CALLS] "
    "[IMG] <pad> [IMG_BREAK] [IMG_END] [PREFIX] [MIDDLE] [SUFFIX] [SYSTEM_PROMPT] [/SYSTEM_PROMPT] [TOOL_CONTENT]"
)


def is_tekken(document: dict[str, Any]) -> bool:
    return "vocab" in document and "pattern" in document.get("config", {})


def tekken_encoder(document: dict[str, Any]) -> BytePairEncoder:
    settings = document["config"]
    control_count = settings["default_num_special_tokens"]
    names = [entry["token_str"] for entry in document.get("special_tokens") or []] or _FIRST_NAMES.split()
    names = [*names, *(f"<SPECIAL_{index}>" for index in range(len(names), control_count))]
    added = [AddedToken(name, index, special=True) for index, name in enumerate(names)]
    ranks = {
        base64.b64decode(entry["token_bytes"]): entry["rank"]
        for entry in document["vocab"][: settings["default_vocab_size"] - control_count]
    }
    bos, eos = names.index("<s>"), names.index("</s>")
    return BytePairEncoder(ranks, settings["pattern"], added, first_id=control_count, prefix=[bos], suffix=[eos])
