"""Small random models of each family that the trainer supports, made and saved by transformers."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

VOCAB_SIZE = 96
LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}
YARN_SCALING = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention"]


def small_sizes(seed: int) -> dict[str, Any]:
    """Sizes that are no multiples of each other, so that a mixed-up one does not go unseen."""
    rng = random.Random(seed)
    kv_heads = rng.choice((1, 2, 3))
    heads = kv_heads * rng.choice((1, 2, 3))
    return {
        "hidden_size": heads * rng.choice((6, 8, 10)),
        "intermediate_size": rng.choice((20, 33, 50)),
        "num_hidden_layers": rng.choice((1, 2, 3)),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 1024,
        "rms_norm_eps": rng.choice((1e-5, 1e-6)),
    }


def many_heads(sizes: dict[str, Any]) -> dict[str, Any]:
    return {**sizes, "num_key_value_heads": sizes["num_attention_heads"]}


def three_layers(sizes: dict[str, Any]) -> dict[str, Any]:
    return {**sizes, "num_hidden_layers": 3}


def rope(theta: float, **scaling: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", **scaling, "rope_theta": theta}}


FAMILIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "llama2": lambda sizes: LlamaConfig(**many_heads(sizes), **rope(1e4)),
    "llama3": lambda sizes: LlamaConfig(**sizes, **rope(5e5)),
    "llama3.1": lambda sizes: LlamaConfig(**sizes, **rope(5e5, **LLAMA3_SCALING)),
    "llama3.2": lambda sizes: LlamaConfig(
        **sizes, **rope(5e5, **LLAMA3_SCALING), head_dim=16, tie_word_embeddings=True
    ),
    "llama-linear": lambda sizes: LlamaConfig(**sizes, **rope(1e4, rope_type="linear", factor=2.5)),
    "llama-biases": lambda sizes: LlamaConfig(**sizes, **rope(1e4), attention_bias=True, mlp_bias=True),
    "smollm2": lambda sizes: LlamaConfig(**sizes, **rope(1e5), tie_word_embeddings=True),
    "mistral": lambda sizes: MistralConfig(**sizes, **rope(1e6), head_dim=12, sliding_window=None),
    "mistral-window": lambda sizes: MistralConfig(**sizes, **rope(1e4), sliding_window=7),
    "qwen2": lambda sizes: Qwen2Config(**sizes, **rope(1e6)),
    "qwen2.5": lambda sizes: Qwen2Config(**sizes, **rope(1e6), tie_word_embeddings=True),
    "qwen2.5-yarn": lambda sizes: Qwen2Config(**sizes, **rope(1e6, **YARN_SCALING)),
    "qwen2-window": lambda sizes: Qwen2Config(
        **three_layers(sizes), **rope(1e6), use_sliding_window=True, sliding_window=6, max_window_layers=1
    ),
    "qwen3": lambda sizes: Qwen3Config(**sizes, **rope(1e6), head_dim=14, tie_word_embeddings=True),
    "qwen3-window": lambda sizes: Qwen3Config(
        **three_layers(sizes),
        **rope(1e6),
        head_dim=14,
        use_sliding_window=True,
        sliding_window=5,
        layer_types=ALTERNATING,
    ),
    "qwen3-biases": lambda sizes: Qwen3Config(**sizes, **rope(1e6), head_dim=10, attention_bias=True),
}


def make_model(family: str, seed: int = 0, vocab_size: int = VOCAB_SIZE, **settings: Any) -> Any:
    """All its parameters are random, biases and norms too, and far from what a fresh model has."""
    config = FAMILIES[family](small_sizes(seed))
    for name, value in {"vocab_size": vocab_size, "pad_token_id": None, **settings}.items():
        setattr(config, name, value)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.empty_like(parameter).normal_(std=0.3, generator=generator)
            parameter.copy_(noise + 1 if "norm" in name else noise)
    return model


def save_model(model: Any, folder: Path, spelling: int = 5, max_shard_size: str = "5GB") -> Path:
    """`spelling` 4 is the config.json of transformers 4."""
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    if spelling == 4:
        path = folder / "config.json"
        path.write_text(json.dumps(as_version_4(json.loads(path.read_text()))))
    return folder


def as_version_4(config: dict[str, Any]) -> dict[str, Any]:
    """Its first versions have no layer_types, which mostly follow from max_window_layers."""
    scaling = dict(config["rope_parameters"])
    theta = scaling.pop("rope_theta")
    dropped = ["rope_parameters", "dtype", *(["layer_types"] if config.get("layer_types") != ALTERNATING else [])]
    kept = {key: value for key, value in config.items() if key not in dropped}
    return {
        **kept,
        "rope_theta": theta,
        "rope_scaling": None if scaling["rope_type"] == "default" else scaling,
        "torch_dtype": config["dtype"],
    }
