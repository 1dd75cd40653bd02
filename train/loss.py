"""Cross entropy straight from the hidden states: the logits of a batch never exist as a whole.

The forward pass goes through the places chunk by chunk. What a chunk's logits contribute to the gradients is added up
right there, while they are at hand, so neither they nor a second look at them is needed in the backward pass. That
needs each place's share of the final loss in advance, which a step knows: it counts before it computes. (The idea is
that of fused linear cross entropy, as in Liger kernels, here in plain torch.)
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import torch
from torch import Tensor

CHUNK_ELEMENTS = {"cpu": 2**26, "gpu": 2**28}
"""Logits that are there at a time, of at most 8 bytes each. Every chunk is added to the whole gradient of the weight,
so few large chunks move less memory; see docs/benchmarks.md."""

Softmax: TypeAlias = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Trained:
    """The N places of a batch whose next token is trained."""

    places: Tensor  # int64[N], index into the flattened [B * seq_len]
    targets: Tensor  # int64[N], the token that follows
    weights: Tensor  # float64[N], > 0


def scaled_softmax(logits: Tensor, answers: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """(losses [n], softmax * scale [n, vocab_size] in the logits' dtype), computed in float32 or better.

    The logits may be written over. answers: int64[n, 1], scale: [n, 1]. A function of its own, because compiled it goes
    through the logits two or three times, and operation by operation seven times.
    """
    exponentials = logits.to(scale.dtype)
    losses, sums = _losses(exponentials, answers)
    return losses, exponentials.mul_(scale / sums).to(logits.dtype)


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor, softmax: Softmax = scaled_softmax
) -> tuple[Tensor, Tensor]:
    """(sum over places of scale * loss, the losses), both float32 or better, in nats; only the sum has a gradient.

    hidden: [N, hidden_size], weight: [vocab_size, hidden_size], targets: int64[N], scale: [N]; N may be 0. softmax:
    `scaled_softmax`, or the same compiled.
    """
    function = _LinearCrossEntropy.apply
    gradients = torch.is_grad_enabled()
    total, losses = function(hidden, weight, targets, scale, softmax, gradients)  # type: ignore[no-untyped-call]
    return total, losses


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor, softmax: Softmax, gradients: bool
    ) -> tuple[Tensor, Tensor]:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        scale = scale.to(exact)
        losses = torch.empty(len(targets), dtype=exact, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if gradients else None
        grad_weight = torch.zeros_like(weight, dtype=exact) if gradients else None
        for part in _chunks(len(targets), len(weight), hidden.device):
            logits, answers = hidden[part] @ weight.t(), targets[part, None]
            if grad_hidden is None or grad_weight is None:
                losses[part], _ = _losses(logits.to(exact), answers)
                continue
            losses[part], slopes = softmax(logits, answers, scale[part, None])
            _subtract_answers(slopes, targets[part], scale[part], losses[part])
            torch.mm(slopes, weight, out=grad_hidden[part])
            _add_product(grad_weight, slopes.t(), hidden[part])
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.mark_non_differentiable(losses)
        return losses @ scale, losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden.mul_(grads[0]), _multiply(grad_weight, grads[0], grad_hidden.dtype), None, None, None, None


def _chunks(places: int, vocab_size: int, device: torch.device) -> Iterator[slice]:
    """Chunks of about equal size: a small last one would cost as much as a large one."""
    most = max(1, CHUNK_ELEMENTS["cpu" if device.type == "cpu" else "gpu"] // vocab_size)
    rows = -(-places // max(1, -(-places // most)))
    return (slice(start, start + rows) for start in range(0, places, rows or 1))


def _losses(logits: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """(losses [n], sums [n, 1] of the exponentials, which are written over the logits, less each row's maximum)"""
    logits.sub_(logits.amax(dim=-1, keepdim=True))
    chosen = logits.gather(1, answers)
    sums = logits.exp_().sum(dim=-1, keepdim=True)
    return (sums.log() - chosen).squeeze(1), sums


def _subtract_answers(slopes: Tensor, targets: Tensor, scale: Tensor, losses: Tensor) -> None:
    """Make softmax * scale the gradient with respect to the logits, (softmax - one hot) * scale, in place. The softmax
    at the answer is exp(-loss), and expm1 loses nothing where that is near 1."""
    rows = torch.arange(len(targets), device=targets.device)
    slopes[rows, targets] = (torch.expm1(-losses) * scale).to(slopes.dtype)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right; `total` may be of a finer dtype, to which the product is then not rounded where the
    device can do without."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    elif adds_finer(left.device, left.dtype, total.dtype):
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
    else:
        total += left @ right


@cache
def adds_finer(device: torch.device, dtype: torch.dtype, finer: torch.dtype) -> bool:
    """Whether this torch adds products of `dtype` to sums of a finer dtype in one kernel, as cuBLAS does: one small
    product is tried. Otherwise the product is rounded to `dtype`, and written and read once more."""
    factor = torch.ones((16, 16), dtype=dtype, device=device)
    total = torch.ones((16, 16), dtype=finer, device=device)
    try:
        torch.addmm(total, factor, factor, out_dtype=finer, out=total)
    except (RuntimeError, TypeError):  # no such kernel on this device, or no such argument
        return False
    return True


def _multiply(gradient: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """gradient * factor as `dtype`; written over the gradient where it can be."""
    product = gradient if gradient.dtype == dtype else torch.empty_like(gradient, dtype=dtype)
    return torch.mul(gradient, factor, out=product)
