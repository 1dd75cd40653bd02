"""Attention that is closed at document borders. The choice of kernel is made here and nowhere else."""

import inspect
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention

from schemas.errors import ConfigError

Kernel = Literal["sdpa", "varlen"]


class Borders(NamedTuple):
    """Where documents begin and end: int32[D + 1], over the rows of `seq_len` tokens laid end to end."""

    cu_seqlens: Tensor
    seq_len: int


Isolation: TypeAlias = Tensor | Borders
"""What keeps documents apart: a mask bool[B, 1, seq_len, seq_len] for sdpa, borders for varlen."""


def choose_kernel(
    asked: Literal["auto", "sdpa", "varlen"], device: torch.device, dtype: torch.dtype, compiled: bool
) -> Kernel:
    """The kernel for computation in `dtype`. Raises ConfigError where the one that was asked for cannot run."""
    if device.type == "cpu":
        runs, needs = not compiled, "a model that is not compiled, on a CPU"
    else:
        runs = dtype in (torch.bfloat16, torch.float16) and torch.cuda.get_device_capability(device) >= (8, 0)
        needs = "compute capability 8.0 or more and bfloat16, on a GPU"
    if asked == "varlen" and not runs:
        raise ConfigError(
            f"attention: varlen needs {needs}; this run is in {str(dtype).removeprefix('torch.')}"
            f"{' and compiled' if compiled else ''}. --set attention=auto takes what runs"
        )
    if asked == "auto":
        return "varlen" if runs else "sdpa"
    return asked


def isolate(document_ids: Tensor, cu_seqlens: Tensor, kernel: Kernel) -> Isolation:
    """Made once a micro-batch, for all layers. document_ids: int64[B, seq_len]; cu_seqlens: int32[D + 1]."""
    if kernel == "varlen":
        return Borders(cu_seqlens, document_ids.shape[1])
    return block_causal_mask(document_ids)


def block_causal_mask(document_ids: Tensor) -> Tensor:
    """bool[B, 1, seq_len, seq_len]: whether a query (row) may see a key: of its own document, and not later."""
    same_document = document_ids[:, :, None] == document_ids[:, None, :]
    return same_document.tril().unsqueeze(1)


def attend(query: Tensor, key: Tensor, value: Tensor, isolation: Isolation) -> Tensor:
    """[B, heads, seq_len, head_dim] in and out; key and value may have fewer heads, each serving a group of queries."""
    if isinstance(isolation, Tensor):
        if query.device.type != "cpu":  # with groups and a mask, torch would fall back to a kernel of seq_len^2 memory
            key, value = (repeat_heads(heads, query.shape[1], dim=1) for heads in (key, value))
        return scaled_dot_product_attention(query, key, value, attn_mask=isolation, enable_gqa=True)
    rows, heads, seq_len, head_dim = query.shape
    flat_query, flat_key, flat_value = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))
    # The longest document is at most a row. A bound that never changes needs no look at the borders, which are on the
    # device, and no new compilation.
    varlen = document_by_document if query.device.type == "cpu" else causal_varlen
    seen = varlen(flat_query, flat_key, flat_value, isolation.cu_seqlens, isolation.seq_len)
    return seen.reshape(rows, seq_len, heads, head_dim).transpose(1, 2)


def document_by_document(query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, longest: int) -> Tensor:
    """What varlen_attn does, on a CPU, for which torch has none: half the time of a mask or less, as a document's
    tokens are not compared with all others of its row. The tensors are [tokens, heads, head_dim]."""
    lengths = [length for length in cu_seqlens.diff().tolist() if length]
    pieces = (torch.split(x.transpose(0, 1).unsqueeze(0), lengths, dim=2) for x in (query, key, value))
    seen = [
        scaled_dot_product_attention(own_query, own_key, own_value, is_causal=True, enable_gqa=True)
        for own_query, own_key, own_value in zip(*pieces, strict=True)
    ]
    return torch.cat(seen, dim=2).squeeze(0).transpose(0, 1)


def repeat_heads(x: Tensor, heads: int, dim: int) -> Tensor:
    """As many heads as the query has, each for the queries of its group."""
    group = heads // x.shape[dim]
    return x if group == 1 else x.repeat_interleave(group, dim=dim)


def adapt_varlen(function: Callable[..., Any]) -> Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]:
    """torch's varlen_attn, of whichever version, as a causal function of (query, key, value, cu_seqlens, longest).

    The tensors are [tokens, heads, head_dim]. Versions differ in how causality is said, and in whether key and value
    may have fewer heads than the query; where they may not, these are repeated.
    """
    parameters = inspect.signature(function).parameters
    options: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in parameters else {"is_causal": True}
    grouped = "enable_gqa" in parameters
    if grouped:
        options["enable_gqa"] = True

    def call(query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, longest: int) -> Tensor:
        if not grouped:
            key, value = (repeat_heads(heads, query.shape[1], dim=1) for heads in (key, value))
        seen: Tensor = function(query, key, value, cu_seqlens, cu_seqlens, longest, longest, **options)
        return seen

    return call


causal_varlen = adapt_varlen(varlen_attn)
