"""Validation: the loss of other data by the arithmetic of training, without gradients."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from train.attention import Kernel
from train.batch import Batch
from train.feed import Feeder
from train.groups import Groups
from train.metrics import LossSum
from train.mixture import PackRef
from train.order import PackOrder
from train.parallel import World
from train.step import add_losses, run_model, sum_losses


@dataclass(frozen=True, slots=True)
class Validation:
    """The data sets to measure, and the packs of them."""

    feeder: Feeder
    groups: Groups
    packs: Sequence[Sequence[PackRef]]  # of each data set

    def batches(self) -> Iterator[Batch]:
        """This rank's, one at a time; every rank has as many."""
        per_round = self.feeder.packs_per_microbatch * self.feeder.ranks
        for own in self.packs:
            for start in range(0, len(own), per_round):
                yield from self.feeder.load(own[start : start + per_round])


def choose_packs(sizes: Sequence[int], most: int | None, seed: int) -> list[list[PackRef]]:
    """At most so many packs of each data set, the same each time."""
    orders = [PackOrder([size], seed).take(0, min(size, most or size)) for size in sizes]
    return [[PackRef(dataset, pack) for pack in order.tolist()] for dataset, order in enumerate(orders)]


@torch.no_grad()
def validate(model: nn.Module, validation: Validation, kernel: Kernel, world: World) -> dict[str, LossSum]:
    """The loss of each data set, by name. Every rank must call it."""
    sums, weights = torch.zeros((2, len(validation.groups)), dtype=torch.float64, device=world.device)
    for batch in (own.to(world.device) for own in validation.batches()):
        _, losses = run_model(model, batch, kernel, divisor=1.0)
        add_losses(sums, weights, batch, losses)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # only a backward pass does it by itself
    total = sum_losses(sums, weights, [], world)
    return validation.groups.by_dataset(total.sums, total.weights)
