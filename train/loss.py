"""The loss of a micro-batch: a sum, to be divided by the count of the whole step, which only the step knows."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear


@dataclass(frozen=True, slots=True)
class Trained:
    """The places whose next token is trained: int64[N] into the flattened batch, its target and its weight."""

    places: Tensor
    targets: Tensor
    weights: Tensor


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """(sum of scale * loss, the losses detached), of hidden [N, hidden_size] and weight [vocab_size, hidden_size]."""
    logits = linear(hidden, weight)
    losses = cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets, reduction="none")
    return losses @ scale.to(losses.dtype), losses.detach()
