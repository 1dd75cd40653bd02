"""What is measured: a base for each model and length, and what differs from it in one thing at a time."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from gpu.shapes import SHAPES

Loss = Literal["chunked", "trained logits", "all logits"]
TOKENS_PER_STEP = 65_536


@dataclass(frozen=True)
class Case:
    """One setting of ours, and perhaps another trainer's model beside it, in turns on the same packs."""

    shape: str
    seq_len: int
    variation: str = "base"
    compile: bool = True
    attention: str = "varlen"
    checkpointing: str = "selective"
    loss: Loss = "chunked"
    beside: str | None = None  # "torchtune", or the attn_implementation of transformers
    beside_compile: bool = False

    @property
    def name(self) -> str:
        return f"{self.shape}/{self.seq_len}/{self.variation}"


def variations(base: Case) -> Iterator[Case]:
    """In the order of what one wants to know first."""
    yield replace(base, variation="transformers", beside="sdpa")
    yield replace(base, variation="eager", compile=False)
    yield replace(base, variation="none", checkpointing="none")
    if base.shape != "llama-1b":
        return
    yield replace(base, variation="full", checkpointing="full")
    yield replace(base, variation="trained-logits", loss="trained logits")
    yield replace(base, variation="all-logits", loss="all logits")
    yield replace(base, variation="flex", attention="flex")
    yield replace(base, variation="sdpa", attention="sdpa")
    yield replace(base, variation="transformers-compiled", beside="sdpa", beside_compile=True)
    yield replace(base, variation="transformers-flash", beside="flash_attention_2")
    yield replace(base, variation="transformers-flex", beside="flex_attention")
    yield replace(base, variation="torchtune", beside="torchtune")


def all_cases() -> list[Case]:
    """First each shape against transformers, then the rest. "base" itself is in each of those."""
    bases = [Case(shape, seq_len) for seq_len in (4096, 8192) for shape in ("llama-1b", "llama-3b", "qwen-0.5b")]
    assert {base.shape for base in bases} == set(SHAPES)
    listed = [list(variations(base)) for base in bases]
    return [cases[0] for cases in listed] + [case for cases in listed for case in cases[1:]]


def choose_cases(pattern: str) -> list[Case]:
    """Those whose name has the regular expression in it."""
    return [case for case in all_cases() if re.search(pattern, case.name)]
