"""Attention over documents that lie end to end: torch's varlen_attn on a GPU, and on a CPU one document at a time."""

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention


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
