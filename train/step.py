"""The arithmetic of one step: every trained token counts once, on whichever rank and in whichever micro-batch it is.

    loss = sum over ranks and micro-batches of (weight * token loss) / sum over the same of weight

The denominator is counted first, over the whole step; each micro-batch's sum is divided by it before its backward pass,
and gradients are summed over ranks. A micro-batch or a rank without a trained token adds zeros: no special case.
With `loss_normalization: documents` the weights of each document add up to 1, so the denominator counts documents.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.profiler import record_function

from train.attention import Kernel, isolate
from train.batch import Batch
from train.loss import Trained
from train.model import Decoder
from train.parallel import World, sum_over_replicas

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StepCount:
    """What all ranks together have in a step. Without a weight column `weight` equals `trained_tokens`."""

    weight: float
    trained_tokens: int
    tokens: int
    pairs: int
    stop: bool  # some rank got a signal
    failed: bool  # some rank could not read its packs


@dataclass(frozen=True, slots=True)
class OwnLoss:
    """Sums over this rank's micro-batches, on the device. Nothing has waited for them: the host may go on."""

    sums: Tensor  # float64[groups], of weight * loss
    weights: Tensor  # float64[groups]
    rows: Tensor  # float64[rows of the micro-batches, one after the other], of the loss


@dataclass(frozen=True, slots=True)
class StepLoss:
    """Sums over all ranks, by group; and which of this rank's rows have a loss that is no finite number."""

    sums: Floats  # [groups], of weight * loss
    weights: Floats  # [groups]
    broken: list[int]  # numbers of rows, those of its micro-batches one after the other

    @property
    def mean(self) -> float:
        return float(self.sums.sum() / self.weights.sum())


@record_function("count tokens")
def count_step(microbatches: Sequence[Batch] | None, stop: bool, world: World) -> StepCount:
    """Count a step before its first forward pass; every rank must call it, with None where it could not read its
    packs."""
    counts = [
        [float(batch.weights.sum()), len(batch.places), batch.tokens, batch.pairs] for batch in microbatches or ()
    ]
    own = np.reshape(counts, (-1, 4)).sum(axis=0)
    weight, trained, tokens, pairs, stops, failures = world.sum([*own, float(stop), float(microbatches is None)])
    return StepCount(weight, int(trained), int(tokens), int(pairs), stops > 0, failures > 0)


def accumulate_gradients(
    model: Decoder, microbatches: Sequence[Batch], count: StepCount, groups: int, kernel: Kernel, world: World
) -> OwnLoss:
    """Add the gradients of the step's loss to the parameters, without a look at the device.

    Every rank must call it, with as many micro-batches as the others. Replicas are summed once, after the last.
    """
    assert count.weight > 0
    sums, weights = torch.zeros((2, groups), dtype=torch.float64, device=world.device)
    rows = []
    for number, microbatch in enumerate(microbatches, 1):
        batch = microbatch.to(world.device)
        sum_over_replicas(model, number == len(microbatches))
        share, losses = run_model(model, batch, kernel, count.weight)
        with record_function("backward"):
            share.backward()  # type: ignore[no-untyped-call]
        add_losses(sums, weights, batch, losses)
        rows.append(add_up_rows(batch, losses))
    return OwnLoss(sums, weights, torch.cat(rows))


@record_function("sum losses")
def look_at_step(own: OwnLoss, norm: Tensor, world: World) -> tuple[StepLoss, float]:
    """The losses of all ranks, and the gradients' norm as a number. Here the host waits for the device, once a step.

    Every rank must call it, when all that the device can do without an answer is on its way.
    """
    seen = torch.cat((norm.reshape(1).to(own.sums), own.sums, own.weights, own.rows)).cpu().numpy()
    grad_norm, sums, weights, rows = np.split(seen, np.cumsum([1, len(own.sums), len(own.weights)]))
    broken = np.flatnonzero(~np.isfinite(rows)).tolist()
    return sum_losses(sums, weights, broken, world), float(grad_norm[0])


@record_function("forward")
def run_model(model: nn.Module, batch: Batch, kernel: Kernel, divisor: float) -> tuple[Tensor, Tensor]:
    """(sum of weight * loss / divisor, the trained places' losses) of a batch on the model's device."""
    isolation = isolate(batch.document_ids, batch.cu_seqlens, kernel)
    trained = Trained(batch.places, batch.targets, batch.weights / divisor)
    share, losses = model(batch.input_ids, batch.position_ids, isolation, trained)
    return share, losses


def add_losses(sums: Tensor, weights: Tensor, batch: Batch, losses: Tensor) -> None:
    """Add a batch's weighted losses, and the weights, to those of their groups; float64[groups] each."""
    sums.index_add_(0, batch.groups, losses.double() * batch.weights)
    weights.index_add_(0, batch.groups, batch.weights)


def add_up_rows(batch: Batch, losses: Tensor) -> Tensor:
    """float64[B]: the losses of each row."""
    rows, seq_len = batch.input_ids.shape
    sums = torch.zeros(rows, dtype=torch.float64, device=losses.device)
    return sums.index_add_(0, batch.places // seq_len, losses.double())


def sum_losses(sums: Floats, weights: Floats, broken: list[int], world: World) -> StepLoss:
    """Every rank must call it."""
    both = np.array(world.sum([*sums.tolist(), *weights.tolist()]))
    return StepLoss(both[: len(sums)], both[len(sums) :], broken)
