"""Rotary position embedding (Su et al. 2021), with Llama's order of dimensions, and its scalings."""

import math

import torch
from torch import Tensor

from train.architecture import Architecture, Llama3Scaling, YarnScaling


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn [B, heads, seq_len, head_dim] by the angles: dimension i is paired with i + head_dim / 2."""
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def rotary_angles(position_ids: Tensor, architecture: Architecture, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(cos, sin) of [B, 1, seq_len, head_dim / 2], computed in float32 or better and given as `dtype`."""
    exact = torch.promote_types(dtype, torch.float32)
    frequencies = inverse_frequencies(architecture, exact, position_ids.device)
    angles = position_ids[:, None, :, None].to(exact) * frequencies
    scale = _attention_factor(architecture.rope_scaling)
    return (angles.cos() * scale).to(dtype), (angles.sin() * scale).to(dtype)


def inverse_frequencies(architecture: Architecture, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[head_dim / 2], in radians per position."""
    exponents = torch.arange(0, architecture.head_dim, 2, dtype=dtype, device=device) / architecture.head_dim
    frequencies = 1.0 / architecture.rope_theta**exponents
    match architecture.rope_scaling:
        case None:
            return frequencies
        case Llama3Scaling() as scaling:
            return _scale_by_wavelength(frequencies, scaling)
        case YarnScaling() as scaling:
            return _scale_by_dimension(frequencies, scaling, architecture)
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


def _scale_by_dimension(frequencies: Tensor, scaling: YarnScaling, architecture: Architecture) -> Tensor:
    """YaRN's scaling (section 3.2). `slowed` is 0 up to the dimension that turns beta_fast times in the original
    context, 1 from the one on that turns beta_slow times, and linear in between."""

    def dimension(turns: float) -> float:
        ratio = scaling.original_max_position_embeddings / (turns * 2 * math.pi)
        return architecture.head_dim * math.log(ratio) / (2 * math.log(architecture.rope_theta))

    first, last = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, architecture.head_dim - 1)
    numbers = torch.arange(len(frequencies), dtype=frequencies.dtype, device=frequencies.device)
    slowed = ((numbers - first) / (last - first or 0.001)).clamp(0, 1)
    return frequencies * (1 - slowed) + frequencies / scaling.factor * slowed


def _attention_factor(scaling: object) -> float:
    """Of cosines and sines, and so, squared, of the scores. YaRN lowers the temperature of attention with it."""
    if not isinstance(scaling, YarnScaling):
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        return _scale_of(scaling.factor, scaling.mscale) / _scale_of(scaling.factor, scaling.mscale_all_dim)
    return _scale_of(scaling.factor, 1.0)


def _scale_of(factor: float, weight: float) -> float:
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0
