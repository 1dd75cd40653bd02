"""FlexAttention: its mask, made from where documents lie. Blocks of 128 x 128 of which no pair may see are left out."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import pad

BLOCK = 128
"""Queries, and keys, of a block; torch's own default."""

NO_DOCUMENT = -1


@cache
def compile_alone() -> Callable[..., Tensor]:
    """As it is, flex_attention makes all scores. (torch.compile itself takes a second to import.)"""
    return torch.compile(flex_attention, dynamic=False)


def attend_by_blocks(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask) -> Tensor:
    """[B, heads, seq_len, head_dim] in and out; key and value may have fewer heads."""
    if torch.compiler.is_compiling():  # as a part of its block
        seen: Tensor = flex_attention(query, key, value, block_mask=mask, enable_gqa=True)
        return seen
    return compile_alone()(query, key, value, block_mask=mask, enable_gqa=True)


def make_block_mask(document_ids: Tensor, window: int | None) -> BlockMask:
    """The mask of documents that follow each other: document_ids, int32[B, seq_len], never fall in a row.

    torch's own create_block_mask looks at all seq_len^2 pairs. Here the corners of a block decide: it holds a pair that
    sees if its first query sees its last key, and all of its pairs see if its last query sees its first key. (Blocks on
    the diagonal hold pairs of both kinds.)
    """
    rows, seq_len = document_ids.shape
    ids = pad(document_ids, (0, -seq_len % BLOCK), value=NO_DOCUMENT).view(rows, -1, BLOCK)
    numbers = torch.arange(ids.shape[1], device=ids.device)
    behind = (numbers[:, None] - numbers) * BLOCK  # [queries, keys]: tokens from one block's start to the other's
    some = (ids[:, :, None, 0] == ids[:, None, :, -1]) & (behind > 0)
    full = (ids[:, :, None, -1] == ids[:, None, :, 0]) & (behind > 0)
    if window is not None:
        some &= behind - (BLOCK - 1) < window
        full &= behind + (BLOCK - 1) < window
    some |= behind == 0
    return BlockMask.from_kv_blocks(
        *_list_blocks(some & ~full),
        *_list_blocks(full),
        BLOCK_SIZE=BLOCK,
        mask_mod=_pairs_that_see(document_ids, window),
        seq_lengths=(seq_len, seq_len),
    )


def _list_blocks(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """(how many blocks of keys each block of queries has, their numbers first), int32, from bool[B, queries, keys]."""
    each = chosen.unsqueeze(1).int()  # for all heads
    numbers = torch.argsort(each, dim=-1, descending=True, stable=True)
    return each.sum(dim=-1, dtype=torch.int32), numbers.int()


def _pairs_that_see(document_ids: Tensor, window: int | None) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Closes over a tensor and no number but the window, so that the next micro-batch compiles nothing anew."""

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (document_ids[row, query] == document_ids[row, key])

    if window is None:
        return sees

    def sees_near(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return sees(row, head, query, key) & (query - key < window)

    return sees_near
