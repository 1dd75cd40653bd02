"""Attention that is closed at document borders. The choice of kernel is made here and nowhere else."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention

from schemas.errors import ConfigError
from train.flex import attend_by_blocks, make_block_mask

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

    document_ids: Tensor  # int64[B, seq_len]
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
    """document_ids: int64[B, seq_len]; cu_seqlens: int32[D + 1]."""
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


def document_by_document(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, longest: int, window: int | None
) -> Tensor:
    """What varlen_attn does, on a CPU, for which torch has none: half the time of a mask or less, as a document's
    tokens are not compared with all others of its row. The tensors are [tokens, heads, head_dim]."""
    lengths = [length for length in cu_seqlens.diff().tolist() if length]
    pieces = (torch.split(x.transpose(0, 1).unsqueeze(0), lengths, dim=2) for x in (query, key, value))
    seen = [
        _attend_alone(own_query, own_key, own_value, window or longest)
        for own_query, own_key, own_value in zip(*pieces, strict=True)
    ]
    return torch.cat(seen, dim=2).squeeze(0).transpose(0, 1)


def _attend_alone(query: Tensor, key: Tensor, value: Tensor, window: int) -> Tensor:
    """Of one document, [1, heads, tokens, head_dim]. A window's queries at a time see its keys and those of the one
    before, so that memory does not grow with the square of the document."""
    tokens = query.shape[2]
    if tokens <= window:
        return scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    seen = []
    for start in range(0, tokens, window):
        queries, keys = slice(start, min(start + window, tokens)), slice(max(0, start - window), start + window)
        places = torch.arange(tokens, device=query.device)
        behind = places[queries, None] - places[keys]
        mask = (behind >= 0) & (behind < window)
        seen.append(
            scaled_dot_product_attention(
                query[:, :, queries], key[:, :, keys], value[:, :, keys], attn_mask=mask, enable_gqa=True
            )
        )
    return torch.cat(seen, dim=2)


def repeat_heads(x: Tensor, heads: int, dim: int) -> Tensor:
    """As many heads as the query has, each for the queries of its group."""
    group = heads // x.shape[dim]
    return x if group == 1 else x.repeat_interleave(group, dim=dim)


Varlen: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor, int, int | None], Tensor]


def has_windows(function: Callable[..., Any]) -> bool:
    return "window_size" in inspect.signature(function).parameters


def adapt_varlen(function: Callable[..., Any]) -> Varlen:
    """torch's varlen_attn, of whichever version, as a causal function of (query, key, value, cu_seqlens, longest,
    window).

    The tensors are [tokens, heads, head_dim]. Versions differ in how causality is said, in whether there are windows,
    and in whether key and value may have fewer heads than the query; where they may not, these are repeated.
    """
    windows, grouped = has_windows(function), "enable_gqa" in inspect.signature(function).parameters

    def call(query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, longest: int, window: int | None) -> Tensor:
        assert windows or window is None
        # so many tokens before itself does a token see, and none after it
        reach: dict[str, Any] = {"window_size": (-1 if window is None else window - 1, 0)}
        options = reach if windows else {"is_causal": True}
        if grouped:
            options["enable_gqa"] = True
        else:
            key, value = (repeat_heads(heads, query.shape[1], dim=1) for heads in (key, value))
        seen: Tensor = function(query, key, value, cu_seqlens, cu_seqlens, longest, longest, **options)
        return seen

    return call


causal_varlen = adapt_varlen(varlen_attn)
VARLEN_HAS_WINDOWS = has_windows(varlen_attn)
