"""How many packs a micro-batch can have. A coarse estimate, on the safe side; what does not fit is tried with half."""

from gpu.shapes import count_parameters

from train.architecture import Architecture

STATE_BYTES = 16
"""Of a parameter: weight, gradient and AdamW's two averages, in float32."""

COPY_BYTES = 2
"""Of a parameter: the weight that one computes with, in bfloat16."""

HEAD_BYTES = 10
"""Of a weight of the vocabulary's matrix, beside that: its gradient in float32 and twice in bfloat16."""

CHUNK_BYTES = 2 << 30

LOGIT_BYTES = 14
"""Of a logit that is there as a whole: bfloat16, float32, its logarithm of the softmax, and the gradient of that."""

USABLE = 0.92


def activation_bytes(shape: Architecture, checkpointing: str) -> float:
    """Of a token, in bfloat16: what the blocks keep."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    queries, keys = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    whole = 2 * (4 * hidden + 3 * queries + 4 * keys + 4 * inner)
    kept = {"none": whole, "selective": 2 * (2 * hidden + queries + keys + inner), "full": 2 * hidden}[checkpointing]
    return shape.num_hidden_layers * kept + 2 * whole  # of the block that is computed again, and its gradients


def logit_bytes(shape: Architecture, loss: str, trained_share: float) -> float:
    """Of a token."""
    assert shape.vocab_size is not None
    share = {"chunked": 0.0, "trained logits": trained_share, "all logits": 1.0}[loss]
    return share * LOGIT_BYTES * shape.vocab_size


def fitting_rows(
    shape: Architecture, seq_len: int, checkpointing: str, loss: str, *, models: int, memory: int, most: int
) -> int:
    """A power of two, at most `most`, or 0. models: that are there at once; memory: bytes of the device."""
    assert shape.vocab_size is not None
    fixed = count_parameters(shape) * (STATE_BYTES * models + COPY_BYTES)
    fixed += HEAD_BYTES * shape.vocab_size * shape.hidden_size + CHUNK_BYTES
    token = activation_bytes(shape, checkpointing) + logit_bytes(shape, loss, trained_share=0.55)
    rows = max(0, min(most, int((USABLE * memory - fixed) // (token * seq_len))))
    return 1 << rows.bit_length() >> 1


def fit_together(shape: Architecture, memory: int) -> bool:
    """Whether two models with their states leave half of the memory to the activations."""
    return 2 * STATE_BYTES * count_parameters(shape) <= memory / 2
