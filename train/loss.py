"""The loss of a micro-batch: a sum, to be divided by the count of the whole step, which only the step knows."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from train.batch import IGNORE


def weighted_loss_sum(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Sum over all places of weight * cross entropy, in nats; a scalar of float32 or better.

    logits: [B, seq_len, vocab_size]; targets: int64[B, seq_len], IGNORE where not trained; weights: [B, seq_len].
    """
    exact = logits.flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32))
    losses = cross_entropy(exact, targets.flatten(), ignore_index=IGNORE, reduction="none")
    return losses @ weights.flatten().to(losses.dtype)
