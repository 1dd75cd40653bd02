"""The floating-point operations that a training step needs, and how many a device can do: together the MFU.

Counted is what the model needs, as in PaLM's model FLOPs utilization (arXiv:2204.02311, appendix B): the products of
matrices, 2 operations for each multiply-add, forward once and backward twice. Not counted: recomputation, padding,
element-wise work, and a query's products with keys that it may not see.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from train.architecture import Architecture

if TYPE_CHECKING:
    import torch

FORWARD_AND_BACKWARD = 3
MULTIPLY_ADD = 2


def count_pairs(doc_lengths: Iterable[int], windows: Sequence[int | None] = (None,)) -> int:
    """The pairs of a query and a key that it sees, in the mean of the layers, whose windows these are.

    In a document of n tokens they are 1 + 2 + ... + n; with a window no query sees more keys than that.
    """
    lengths = [int(length) for length in doc_lengths]
    layers = Counter(windows)
    return round(sum(_pairs(lengths, window) * count for window, count in layers.items()) / len(windows))


def _pairs(lengths: Sequence[int], window: int | None) -> int:
    pairs = sum(length * (length + 1) // 2 for length in lengths)
    beyond = 0 if window is None else _pairs([length - window for length in lengths if length > window], None)
    return pairs - beyond


def step_flops(architecture: Architecture, *, tokens: int, trained_tokens: int, pairs: int) -> int:
    """What these tokens of documents need, forward and backward; pairs: `count_pairs` of the documents' lengths.

    Each token goes through the blocks, a trained one also through the head, and a pair is a product of head_dim in
    every head, twice: for the scores, and for the values.
    """
    assert architecture.vocab_size is not None
    heads, kv_heads = architecture.num_attention_heads, architecture.num_key_value_heads
    attention = 2 * (heads + kv_heads) * architecture.head_dim * architecture.hidden_size
    feed_forward = 3 * architecture.intermediate_size * architecture.hidden_size
    blocks = architecture.num_hidden_layers * (
        tokens * (attention + feed_forward) + pairs * 2 * heads * architecture.head_dim
    )
    head = trained_tokens * architecture.hidden_size * architecture.vocab_size
    return FORWARD_AND_BACKWARD * MULTIPLY_ADD * (blocks + head)


PEAKS: tuple[tuple[str, float], ...] = (
    ("GB300", 2500e12),
    ("GB200", 2500e12),
    ("B300", 2250e12),
    ("B200", 2250e12),
    ("GH200", 989e12),
    ("H200 NVL", 835.5e12),
    ("H200", 989e12),
    ("H100 PCIE", 756e12),
    ("H100 NVL", 835.5e12),
    ("H100", 989e12),
    ("H800 PCIE", 756e12),
    ("H800", 989e12),
    ("H20", 148e12),
    ("A100", 312e12),
    ("A800", 312e12),
    ("A40", 149.7e12),
    ("A30", 165e12),
    ("A10", 125e12),
    ("A10G", 70e12),
    ("L4", 121e12),
    ("L20", 119.5e12),
    ("L40", 181e12),
    ("L40S", 362e12),
    ("RTX PRO 6000", 503.8e12),
    ("RTX 6000 ADA", 364.2e12),
    ("A6000", 154.8e12),
    ("RTX 5090", 209.5e12),
    ("RTX 4090", 165.2e12),
    ("RTX 3090 TI", 80e12),
    ("RTX 3090", 71e12),
    ("MI355X", 2516.6e12),
    ("MI350X", 2306.9e12),
    ("MI325X", 1307.4e12),
    ("MI300X", 1307.4e12),
)
"""Dense bfloat16 with float32 sums, operations a second, from the makers' data sheets (which like to give the double,
for sparse matrices). The first whose words are all in the device's name holds."""

OTHERS = {"LAPTOP", "MOBILE", "MIG", "D", "Q"}
"""Words of slower devices under these names: a notebook's, a slice, the RTX 4090 D, Max-Q."""


def peak_flops(device_name: str) -> float | None:
    """Operations a second of a device by the name that torch gives it, as "NVIDIA H100 80GB HBM3"; None: not known."""
    words = set(re.split(r"[^A-Z0-9]+", device_name.upper()))
    if words & OTHERS:
        return None
    return next((peak for name, peak in PEAKS if words.issuperset(name.split())), None)


def device_peak_flops(device: "torch.device") -> float | None:
    """`peak_flops` of this device; None on a CPU."""
    if device.type != "cuda":
        return None
    import torch

    return peak_flops(torch.cuda.get_device_name(device))
