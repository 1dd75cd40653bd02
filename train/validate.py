"""Validation: the loss of other data by the arithmetic of training, without gradients."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from schemas.errors import DatasetError
from train.attention import Kernel
from train.batch import Batch
from train.feed import Feeder, end_in_error, of_another_rank
from train.metrics import LossSum
from train.mixture import PackRef
from train.order import PackOrder
from train.parallel import World, reshard
from train.signals import StopFlag
from train.step import add_losses, run_model, sum_losses


@dataclass(frozen=True, slots=True)
class Validation:
    """The data sets to measure, and how many packs of each; the choice is the same each time."""

    feeder: Feeder
    most_packs: int | None
    seed: int

    def sizes(self) -> list[int]:
        """The packs of each data set."""
        return [min(len(dataset), self.most_packs or len(dataset)) for dataset in self.feeder.datasets]

    def batches(self) -> Iterator[Batch]:
        """This rank's, one at a time; every rank has as many. Raises DatasetError for a damaged shard."""
        for share in self.feeder.load(self._rounds):
            yield from share.microbatches

    def _rounds(self) -> Iterator[list[PackRef]]:
        """Packs of which each rank computes one micro-batch."""
        a_round = self.feeder.packs_per_microbatch * self.feeder.ranks
        for number, (dataset, packs) in enumerate(zip(self.feeder.datasets, self.sizes(), strict=True)):
            order = PackOrder([len(dataset)], self.seed)
            for start in range(0, packs, a_round):
                chosen = order.take(start, min(a_round, packs - start)).tolist()
                yield [PackRef(number, pack) for pack in chosen]


@torch.no_grad()
def validate(
    model: nn.Module, validation: Validation, kernel: Kernel, stop: StopFlag, world: World
) -> dict[str, LossSum] | None:
    """The loss of each data set, by name; None where a signal came meanwhile. Every rank must call it.

    Raises DatasetError, on all ranks, where one cannot read its packs."""
    groups = validation.feeder.groups
    sums, weights = torch.zeros((2, len(groups)), dtype=torch.float64, device=world.device)
    stopped = False
    for own in end_in_error(validation.batches()):
        signals, failures = world.sum([float(bool(stop)), float(isinstance(own, DatasetError))])
        if isinstance(own, DatasetError):
            raise own
        if failures:
            raise of_another_rank()
        stopped = signals > 0
        if stopped:
            break
        batch = own.to(world.device)
        _, losses = run_model(model, batch, kernel, divisor=1.0)
        add_losses(sums, weights, batch, losses)
    reshard(model)
    if stopped:
        return None
    total = sum_losses(sums.cpu().numpy(), weights.cpu().numpy(), [], world)
    return groups.by_dataset(total.sums, total.weights)
