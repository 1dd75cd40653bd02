"""Attention that is closed at document borders. The choice of kernel is made here and nowhere else."""

from collections.abc import Iterable
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import scaled_dot_product_attention

from schemas.errors import ConfigError
from train.flex import attend_by_blocks, make_block_mask
from train.varlen import VARLEN_HAS_WINDOWS, causal_varlen, document_by_document, repeat_heads

Kernel = Literal["sdpa", "varlen", "flex"]

LONGEST_MASK = 16_384
"""The longest seq_len for which sdpa has a mask on a GPU: 0.25 GiB a row as it is, and more in the kernel."""


class Borders(NamedTuple):
    """Where documents begin and end: int32[D + 1], over the rows of `seq_len` tokens laid end to end."""

    cu_seqlens: Tensor
    seq_len: int
    window: int | None


Mask: TypeAlias = Tensor | Borders | BlockMask
"""What a query sees: a mask bool[B, 1, seq_len, seq_len] for sdpa, borders for varlen, blocks for flex."""


class Isolation(NamedTuple):
    """The documents of a micro-batch, which are kept apart by `kernel`."""

    document_ids: Tensor  # int32[B, seq_len]
    cu_seqlens: Tensor  # int32[D + 1]
    kernel: Kernel

    def masks(self, windows: Iterable[int | None]) -> dict[int | None, Mask]:
        """By window; each is made once a micro-batch, for all layers that have it."""
        seq_len = self.document_ids.shape[1]
        reach = {window: None if window is None or window >= seq_len else window for window in windows}
        made = {window: self._mask(window) for window in dict.fromkeys(reach.values())}
        return {window: made[own] for window, own in reach.items()}

    def _mask(self, window: int | None) -> Mask:
        if self.kernel == "varlen":
            return Borders(self.cu_seqlens, self.document_ids.shape[1], window)
        if self.kernel == "flex":
            return make_block_mask(self.document_ids, window)
        return block_causal_mask(self.document_ids, window)


def isolate(document_ids: Tensor, cu_seqlens: Tensor, kernel: Kernel) -> Isolation:
    """document_ids: int32[B, seq_len]; cu_seqlens: int32[D + 1]."""
    return Isolation(document_ids, cu_seqlens, kernel)


def choose_kernel(
    asked: Literal["auto", "sdpa", "varlen", "flex"],
    device: torch.device,
    dtype: torch.dtype,
    compiled: bool,
    seq_len: int = 1,
    windows: Iterable[int | None] = (),
) -> Kernel:
    """The kernel for computation in `dtype`; windows: those of the layers.

    Raises ConfigError where the one that was asked for cannot run.
    """
    windowed = any(window is not None and window < seq_len for window in windows)
    needs = _needs(device, dtype, compiled, seq_len, windowed)
    if asked == "auto":
        return next((kernel for kernel, need in needs.items() if need is None), "sdpa")
    need = needs[asked]
    if need is not None:
        raise ConfigError(
            f"attention: {asked} needs {need}; this run is in {str(dtype).removeprefix('torch.')}"
            f"{' and compiled' if compiled else ''}. --set attention=auto takes what runs"
        )
    return asked


def _needs(
    device: torch.device, dtype: torch.dtype, compiled: bool, seq_len: int, windowed: bool
) -> dict[Kernel, str | None]:
    """What a run lacks for a kernel; None: nothing. The first that lacks nothing is the one to take."""
    if device.type == "cpu":
        uncompiled = None if not compiled else "a model that is not compiled, on a CPU"
        return {"varlen": uncompiled, "sdpa": None, "flex": "a GPU, as torch has no gradients for it on a CPU"}
    capability = torch.cuda.get_device_capability(device)
    needs: dict[Kernel, str | None] = dict.fromkeys(("varlen", "sdpa", "flex"))
    if dtype not in (torch.bfloat16, torch.float16) or capability < (8, 0):
        needs["varlen"] = "compute capability 8.0 or more and bfloat16, on a GPU"
    elif windowed and not VARLEN_HAS_WINDOWS:
        needs["varlen"] = f"a newer torch than {torch.__version__} for a sliding window"
    if seq_len > LONGEST_MASK:
        needs["sdpa"] = f"a seq_len of {LONGEST_MASK:,} or less, as its mask has seq_len x seq_len elements"
    if dtype is torch.float64 or capability < (7, 0):
        needs["flex"] = "compute capability 7.0 or more and float32 or bfloat16, on a GPU"
    return needs


def block_causal_mask(document_ids: Tensor, window: int | None = None) -> Tensor:
    """bool[B, 1, seq_len, seq_len]: whether a query (row) may see a key: of its own document, not later, and of the
    last `window` tokens up to itself."""
    sees = (document_ids[:, :, None] == document_ids[:, None, :]).tril()
    if window is not None:
        sees = sees.triu(1 - window)
    return sees.unsqueeze(1)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Mask) -> Tensor:
    """[B, heads, seq_len, head_dim] in and out; key and value may have fewer heads, each serving a group of queries."""
    if isinstance(mask, BlockMask):
        return attend_by_blocks(query, key, value, mask)
    if isinstance(mask, Tensor):
        if query.device.type != "cpu":  # with groups and a mask, torch would fall back to a kernel of seq_len^2 memory
            key, value = (repeat_heads(heads, query.shape[1], dim=1) for heads in (key, value))
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
    rows, heads, seq_len, head_dim = query.shape
    flat_query, flat_key, flat_value = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))
    # The longest document is at most a row. A bound that never changes needs no look at the borders, which are on the
    # device, and no new compilation.
    varlen = document_by_document if query.device.type == "cpu" else causal_varlen
    seen = varlen(flat_query, flat_key, flat_value, mask.cu_seqlens, mask.seq_len, mask.window)
    return seen.reshape(rows, seq_len, heads, head_dim).transpose(1, 2)
