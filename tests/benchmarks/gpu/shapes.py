"""The models that are measured: real dimensions, random weights. And small ones, for the tests of the benchmark."""

from typing import Any

from train.architecture import Architecture, Llama3Scaling

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 128_256,
    "intermediate_size": 8192,
    "num_key_value_heads": 8,
    "rope_theta": 500_000.0,
    "rope_scaling": Llama3Scaling(
        rope_type="llama3",
        factor=32.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=8192,
    ),
    "tie_word_embeddings": True,
}

SHAPES: dict[str, Architecture] = {
    "qwen-0.5b": Architecture(
        model_type="qwen2",
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        rope_theta=1e6,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
    ),
    "llama-1b": Architecture(**LLAMA, hidden_size=2048, num_hidden_layers=16, num_attention_heads=32),
    "llama-3b": Architecture(**LLAMA, hidden_size=3072, num_hidden_layers=28, num_attention_heads=24),
}

TINY = {"vocab_size": 500, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
TINY_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}


def shape_of(name: str, tiny: bool) -> Architecture:
    """tiny: of the same family, for a CPU."""
    return SHAPES[name].model_copy(update=TINY | TINY_HEADS) if tiny else SHAPES[name]


def count_parameters(shape: Architecture) -> int:
    assert shape.vocab_size is not None
    hidden, queries, keys = shape.hidden_size, shape.num_attention_heads, shape.num_key_value_heads
    biases = (queries + 2 * keys) * shape.head_dim if shape.qkv_bias else 0
    block = 2 * (queries + keys) * shape.head_dim * hidden + 3 * shape.intermediate_size * hidden + 2 * hidden + biases
    return shape.num_hidden_layers * block + (2 - shape.tie_word_embeddings) * shape.vocab_size * hidden + hidden


def transformers_config(shape: Architecture) -> Any:
    """The same model for transformers."""
    from transformers import AutoConfig

    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    if shape.model_type == "llama":  # Qwen 2 has no other size of heads than this
        names += ("head_dim",)
    sizes = {name: getattr(shape, name) for name in (*names, "vocab_size", "rms_norm_eps", "tie_word_embeddings")}
    scaling = shape.rope_scaling.model_dump() if shape.rope_scaling else {"rope_type": "default"}
    rope = {**scaling, "rope_theta": shape.rope_theta}
    return AutoConfig.for_model(shape.model_type, **sizes, rope_parameters=rope, max_position_embeddings=131_072)
