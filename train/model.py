"""One decoder for the families of Llama, Mistral and Qwen: RMSNorm, rotary positions, grouped queries, SwiGLU.

It knows no rank. Parameters have Hugging Face's names, without the leading `model.`.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from train.architecture import Architecture
from train.attention import Isolation, Mask, attend
from train.loss import Softmax, Trained, linear_cross_entropy, scaled_softmax
from train.rotary import rotary_angles, rotate


class Attention(nn.Module):
    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        self.head_dim = shape.head_dim
        query_size, kv_size = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden_size, query_size, bias=shape.qkv_bias)
        self.k_proj = nn.Linear(shape.hidden_size, kv_size, bias=shape.qkv_bias)
        self.v_proj = nn.Linear(shape.hidden_size, kv_size, bias=shape.qkv_bias)
        self.o_proj = nn.Linear(query_size, shape.hidden_size, bias=shape.attention_bias)
        self.q_norm = nn.RMSNorm(shape.head_dim, shape.rms_norm_eps) if shape.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(shape.head_dim, shape.rms_norm_eps) if shape.qk_norm else nn.Identity()

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Mask) -> Tensor:
        query, key, value = (self._heads(project(x)) for project in (self.q_proj, self.k_proj, self.v_proj))
        query, key = rotate(self.q_norm(query), cos, sin), rotate(self.k_norm(key), cos, sin)
        seen = attend(query, key, value, mask)
        merged: Tensor = self.o_proj(seen.transpose(1, 2).flatten(2))
        return merged

    def _heads(self, x: Tensor) -> Tensor:
        """[B, seq_len, heads * head_dim] -> [B, heads, seq_len, head_dim]"""
        return x.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)


class FeedForward(nn.Module):
    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=shape.mlp_bias)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=shape.mlp_bias)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=shape.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Block(nn.Module):
    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.mlp = FeedForward(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Mask) -> Tensor:
        h = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        out: Tensor = h + self.mlp(self.post_attention_layernorm(h))
        return out


class Decoder(nn.Module):
    """Its parameters hold nothing of use before train.weights has filled them, so make it on the meta device."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        assert architecture.vocab_size is not None
        self.architecture = architecture
        self.embed_tokens = nn.Embedding(architecture.vocab_size, architecture.hidden_size)
        self.layers = nn.ModuleList(Block(architecture) for _ in range(architecture.num_hidden_layers))
        self.norm = nn.RMSNorm(architecture.hidden_size, architecture.rms_norm_eps)
        tied = architecture.tie_word_embeddings
        self.lm_head = None if tied else nn.Linear(architecture.hidden_size, architecture.vocab_size, bias=False)
        self.softmax: Softmax = scaled_softmax
        self.stays_whole = False  # through a step; train.parallel may decide so

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, isolation: Isolation, trained: Trained
    ) -> tuple[Tensor, Tensor]:
        """The sum of weight * loss over the trained places, a scalar, and their losses, detached: float[N].

        input_ids and position_ids: int64[B, seq_len]. The final norm and the vocabulary, which is the widest matrix of
        all, are computed for the trained places alone.
        """
        assert trained.weights.dtype is torch.float64  # FSDP rounds them to bfloat16 unless cast_forward_inputs=False
        hidden = self._hidden(input_ids, position_ids, isolation)
        chosen = self.norm(hidden.flatten(0, 1)[trained.places])
        return linear_cross_entropy(chosen, self._output_weight(), trained.targets, trained.weights, self.softmax)

    def logits(self, input_ids: Tensor, position_ids: Tensor, isolation: Isolation) -> Tensor:
        """[B, seq_len, vocab_size] of every place; for small batches, and not of a sharded model."""
        return nn.functional.linear(self.norm(self._hidden(input_ids, position_ids, isolation)), self._output_weight())

    def _hidden(self, input_ids: Tensor, position_ids: Tensor, isolation: Isolation) -> Tensor:
        """[B, seq_len, hidden_size], before the final norm."""
        x: Tensor = self.embed_tokens(input_ids)
        cos, sin = rotary_angles(position_ids, self.architecture, x.dtype)
        masks = isolation.masks(self.architecture.windows)
        for block, window in zip(self.layers, self.architecture.windows, strict=True):
            x = block(x, cos, sin, masks[window])
        return x

    def _output_weight(self) -> Tensor:
        return self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight
