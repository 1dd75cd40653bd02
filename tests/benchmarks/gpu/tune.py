"""The same model from torchtune 0.6.1: its decoder, mask and loss, compiled as its recipes have them, in the same loop.

Weights, gradients and AdamW's state are bfloat16, as in its recipes: less memory and less exact than the other sides.
"""

from typing import Any

import torch
from gpu.cases import Case
from gpu.ours import make_config
from gpu.theirs import IGNORED, Theirs
from torch import Tensor

from train.architecture import Architecture, Llama3Scaling
from train.batch import Batch


class Torchtune(Theirs):
    """Llama 3.2."""

    def __init__(self, case: Case, shape: Architecture, rows: int, dtype: str, device: torch.device) -> None:
        from torchtune.models.llama3_2 import llama3_2
        from torchtune.modules.loss import CEWithChunkedOutputLoss
        from torchtune.training import compile_loss, compile_model, set_default_dtype

        assert isinstance(shape.rope_scaling, Llama3Scaling)
        assert shape.tie_word_embeddings
        with set_default_dtype(getattr(torch, dtype)), device:  # its rotary positions stay float32
            model: Any = llama3_2(
                vocab_size=shape.vocab_size,
                num_layers=shape.num_hidden_layers,
                num_heads=shape.num_attention_heads,
                num_kv_heads=shape.num_key_value_heads,
                embed_dim=shape.hidden_size,
                max_seq_len=131_072,
                rope_base=int(shape.rope_theta),
                intermediate_dim=shape.intermediate_size,
                norm_eps=shape.rms_norm_eps,
                scale_factor=int(shape.rope_scaling.factor),
            )
        self.cross_entropy = CEWithChunkedOutputLoss()
        model.set_num_output_chunks(self.cross_entropy.num_output_chunks)
        if device.type == "cuda":
            compile_model(model, verbose=False)
            compile_loss(self.cross_entropy, verbose=False)
        super().__init__("torchtune, bfloat16", model, make_config(case, shape, rows, dtype), rows, device)
        self.shape = shape

    def loss(self, batch: Batch, trained: int) -> Tensor:
        from torchtune.modules.attention_utils import packed_block_causal_mask

        mask = packed_block_causal_mask([ids.unique_consecutive(return_counts=True)[1] for ids in batch.document_ids])
        mask = mask.to(self.device)
        own = batch.to(self.device)
        labels = torch.full_like(own.input_ids, IGNORED).flatten()
        labels[own.places] = own.targets
        chunks = self.model(own.input_ids, mask=mask, input_pos=own.position_ids)
        targets = labels.view_as(own.input_ids).chunk(len(chunks), dim=1)
        # As its loss does, which however divides by the trained places of a micro-batch, of which there may be none.
        sums = [
            self.cross_entropy.compute_cross_entropy(logits.flatten(0, 1), answers.flatten())
            for logits, answers in zip(chunks, targets, strict=True)
        ]
        return torch.stack(sums).sum() / trained

    def take_weights(self, weights: dict[str, Tensor]) -> None:
        from torchtune.models.convert_weights import hf_to_tune

        heads = self.shape.num_attention_heads, self.shape.num_key_value_heads
        self.model.load_state_dict(hf_to_tune(weights, *heads, self.shape.hidden_size, self.shape.head_dim))
