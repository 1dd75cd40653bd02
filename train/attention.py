"""Attention that is closed at document borders. The choice of kernel is made here and nowhere else."""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def block_causal_mask(document_ids: Tensor) -> Tensor:
    """bool[B, 1, seq_len, seq_len]: whether a query (row) may see a key: of its own document, and not later."""
    same_document = document_ids[:, :, None] == document_ids[:, None, :]
    return same_document.tril().unsqueeze(1)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """[B, heads, seq_len, head_dim] in and out; key and value may have fewer heads, each serving a group of queries."""
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of [B, heads, seq_len, head_dim]: dimension i is paired with i + head_dim / 2."""
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def rotary_angles(position_ids: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(cos, sin) of [B, 1, seq_len, head_dim / 2], computed in float32 or better and given as `dtype`."""
    exact = torch.promote_types(dtype, torch.float32)
    exponents = torch.arange(0, head_dim, 2, dtype=exact, device=position_ids.device) / head_dim
    angles = position_ids[:, None, :, None].to(exact) * theta**-exponents
    return angles.cos().to(dtype), angles.sin().to(dtype)
