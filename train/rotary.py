"""Rotary position embedding (Su et al. 2021), with Llama's order of dimensions, and its scalings."""

import math

import torch
from torch import Tensor

from train.architecture import Architecture, Llama3Scaling


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn [B, heads, seq_len, head_dim] by the angles: dimension i is paired with i + head_dim / 2."""
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def rotary_angles(position_ids: Tensor, architecture: Architecture, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(cos, sin) of [B, 1, seq_len, head_dim / 2], computed in float32 or better and given as `dtype`."""
    exact = torch.promote_types(dtype, torch.float32)
    frequencies = inverse_frequencies(architecture, exact, position_ids.device)
    angles = position_ids[:, None, :, None].to(exact) * frequencies
    return angles.cos().to(dtype), angles.sin().to(dtype)


def inverse_frequencies(architecture: Architecture, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[head_dim / 2], in radians per position."""
    exponents = torch.arange(0, architecture.head_dim, 2, dtype=dtype, device=device) / architecture.head_dim
    frequencies = 1.0 / architecture.rope_theta**exponents
    match architecture.rope_scaling:
        case None:
            return frequencies
        case Llama3Scaling() as scaling:
            return _scale_by_wavelength(frequencies, scaling)
        case scaling:
            return frequencies / scaling.factor


def _scale_by_wavelength(frequencies: Tensor, scaling: Llama3Scaling) -> Tensor:
    """Llama 3.1's scaling. `kept` is 1 where the original context holds at least high_freq_factor wavelengths, 0 where
    it holds at most low_freq_factor, and linear in between."""
    wavelengths = 2 * math.pi / frequencies
    held = scaling.original_max_position_embeddings / wavelengths
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((held - low) / (high - low)).clamp(0, 1)
    return frequencies * kept + frequencies / scaling.factor * (1 - kept)
