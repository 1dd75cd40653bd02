"""The arithmetic of one step: every trained token counts once, on whichever rank and in whichever micro-batch it is.

    loss = sum over ranks and micro-batches of (weight * token loss) / sum over the same of weight

The denominator is counted first, over the whole step; each micro-batch's sum is divided by it before its backward pass,
and gradients are summed over ranks. A micro-batch or a rank without a trained token adds zeros: no special case.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from train.batch import Batch
from train.loss import weighted_loss_sum
from train.parallel import World


@dataclass(frozen=True, slots=True)
class StepCount:
    """What all ranks together have in a step. Without a weight column `weight` equals `trained_tokens`."""

    weight: float
    trained_tokens: int
    tokens: int


def count_step(microbatches: Sequence[Batch], world: World) -> StepCount:
    """Count a step before its first forward pass; every rank must call it."""
    weight = sum(float(batch.weights.double().sum()) for batch in microbatches)
    trained = sum(int(batch.weights.count_nonzero()) for batch in microbatches)
    tokens = sum(batch.tokens for batch in microbatches)
    weight, trained_tokens, all_tokens = world.sum([weight, trained, tokens])
    return StepCount(weight, int(trained_tokens), int(all_tokens))


def accumulate_gradients(model: nn.Module, microbatches: Sequence[Batch], count: StepCount, world: World) -> float:
    """Add the gradients of the step's loss to the parameters and return that loss, of all ranks.

    Every rank must call it, with as many micro-batches as the others.
    """
    assert count.weight > 0
    loss = 0.0
    for batch in microbatches:
        share = _loss_sum(model, batch.to(world.device)) / count.weight
        share.backward()  # type: ignore[no-untyped-call]
        loss += float(share.detach())
    return world.sum([loss])[0]


def _loss_sum(model: nn.Module, batch: Batch) -> Tensor:
    logits = model(batch.input_ids, batch.position_ids, batch.document_ids)
    return weighted_loss_sum(logits, batch.targets, batch.weights)
