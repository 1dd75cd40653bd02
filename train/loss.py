"""Cross entropy straight from the hidden states: the logits of a batch never exist as a whole.

The forward pass goes through the places chunk by chunk. What a chunk's logits contribute to the gradients is added up
right there, while they are at hand, so neither they nor a second look at them is needed in the backward pass. That
needs each place's share of the final loss in advance, which a step knows: it counts before it computes. (The idea is
that of fused linear cross entropy, as in Liger kernels, here in plain torch.)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 2**26
"""Logits that are there at a time; see docs/benchmarks.md."""


@dataclass(frozen=True, slots=True)
class Trained:
    """The N places of a batch whose next token is trained."""

    places: Tensor  # int64[N], index into the flattened [B * seq_len]
    targets: Tensor  # int64[N], the token that follows
    weights: Tensor  # float64[N], > 0


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """(sum over places of scale * loss, the losses), both float32 or better, in nats; only the sum has a gradient.

    hidden: [N, hidden_size], weight: [vocab_size, hidden_size], targets: int64[N], scale: [N]; N may be 0.
    """
    function = _LinearCrossEntropy.apply
    total, losses = function(hidden, weight, targets, scale, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    return total, losses


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor, wanted: bool
    ) -> tuple[Tensor, Tensor]:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        scale = scale.to(exact)
        losses = torch.empty(len(targets), dtype=exact, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if wanted else None
        grad_weight = torch.zeros_like(weight, dtype=exact) if wanted else None
        for part in _chunks(len(targets), len(weight)):
            logits = (hidden[part] @ weight.t()).to(exact)
            answers = targets[part, None]
            losses[part], sums = _losses(logits, answers)
            if grad_hidden is not None and grad_weight is not None:
                slopes = _slopes(logits, sums, answers, scale[part, None]).to(hidden.dtype)
                torch.mm(slopes, weight, out=grad_hidden[part])
                _add_product(grad_weight, slopes.t(), hidden[part])
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.mark_non_differentiable(losses)
        return losses @ scale, losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden.mul_(grads[0]), grad_weight.mul_(grads[0]).to(grad_hidden.dtype), None, None, None


def _chunks(places: int, vocab_size: int) -> Iterator[slice]:
    rows = max(1, CHUNK_ELEMENTS // vocab_size)
    return (slice(start, start + rows) for start in range(0, places, rows))


def _losses(logits: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """(losses [n], sums [n, 1] of the exponentials, which are written over the logits, less each row's maximum)"""
    logits.sub_(logits.amax(dim=-1, keepdim=True))
    chosen = logits.gather(1, answers)
    sums = logits.exp_().sum(dim=-1, keepdim=True)
    return (sums.log() - chosen).squeeze(1), sums


def _slopes(exponentials: Tensor, sums: Tensor, answers: Tensor, scale: Tensor) -> Tensor:
    """The gradient with respect to the logits, written over them: (softmax - one hot) * scale."""
    return exponentials.mul_(scale / sums).scatter_add_(1, answers, -scale)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right; `total` may be of a finer dtype."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
