"""YaRN's frequencies and its factor against those of transformers, with each of its options.

The other scalings, and YaRN with its defaults, are proved by logits in test_weights.py.
"""

from typing import Any

import pytest
import torch
from transformers import Qwen2Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from train.architecture import PRESETS
from train.rotary import inverse_frequencies, rotary_angles

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"factor": 0.5},
        {"truncate": False},
        {"beta_fast": 16.0, "beta_slow": 2.0},
        {"attention_factor": 0.7},
        {"mscale": 1.0},
        {"mscale": 0.8, "mscale_all_dim": 0.5},
        {"original_max_position_embeddings": 3, "beta_fast": 1.0},  # nothing turns often: no dimension stays
    ],
)
@pytest.mark.parametrize("theta", [10_000.0, 1_000_000.0])
def test_yarn_is_that_of_transformers(options: dict[str, Any], theta: float) -> None:
    shape = PRESETS["tiny"].model_dump() | {"head_dim": 128, "rope_theta": theta, "rope_scaling": {**YARN, **options}}
    ours = type(PRESETS["tiny"])(**shape)
    theirs = Qwen2Config(
        hidden_size=128 * 4,
        num_attention_heads=4,
        max_position_embeddings=32_768,
        rope_parameters={**YARN, **options, "rope_theta": theta},
    )
    expected, factor = ROPE_INIT_FUNCTIONS["yarn"](theirs, torch.device("cpu"))
    found = inverse_frequencies(ours, torch.float64, torch.device("cpu"))
    torch.testing.assert_close(found.float(), expected, rtol=1e-5, atol=0)
    positions = torch.tensor([[0, 1, 5000]])
    cos, sin = rotary_angles(positions, ours, torch.float64)
    angles = positions[0, :, None] * found
    torch.testing.assert_close(cos[0, 0], angles.cos() * factor, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(sin[0, 0], angles.sin() * factor, rtol=1e-9, atol=1e-9)
