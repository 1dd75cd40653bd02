"""Activation checkpointing: what a block keeps for its backward pass, and what it computes again."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

_ATTENTION = (
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.higher_order.flex_attention,
)
_MATRIX_PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)


def recompute_activations(block: nn.Module, mode: Literal["none", "selective", "full"]) -> None:
    """In place, and parameters keep their names.

    full: all but the block's input is computed again. selective: attention and every second matrix product are kept,
    which costs little memory for what it saves; the rest, cheap by comparison, is computed again (the choice of
    torchtitan).
    """
    if mode == "full":
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    elif mode == "selective":
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=_selective_contexts)


def _selective_contexts() -> Any:
    return create_selective_checkpoint_contexts(_policy())  # type: ignore[no-untyped-call]


def _policy() -> Callable[..., CheckpointPolicy]:
    seen = {False: 0, True: 0}  # matrix products so far, in the forward pass and in its repetition

    def decide(context: Any, operation: Any, *arguments: Any, **keywords: Any) -> CheckpointPolicy:
        kept = operation in _ATTENTION or "varlen" in str(operation)
        if operation in _MATRIX_PRODUCTS:
            seen[context.is_recompute] += 1
            kept = seen[context.is_recompute] % 2 == 0
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE

    return decide
