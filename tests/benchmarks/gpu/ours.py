"""The trainer's own step, on packs that are made up."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from gpu.cases import Case, Loss
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.functional import cross_entropy, linear
from torch.profiler import record_function

import train.model
from train.architecture import Architecture
from train.attention import choose_kernel
from train.batch import Batch, Entry, make_batch
from train.config import TrainConfig
from train.optim import clip_gradients, make_optimizer, update
from train.parallel import World, dtypes_of
from train.run import make_model
from train.step import accumulate_gradients, count_step, look_at_step
from train.weights import INITIAL_STD


class Ours:
    """`rows`: packs of a micro-batch."""

    name = "ours"

    def __init__(self, case: Case, shape: Architecture, rows: int, dtype: str, world: World) -> None:
        self.case, self.rows, self.world = case, rows, world
        self.config = make_config(case, shape, rows, dtype)
        device = world.device
        self.kernel = choose_kernel(self.config.attention, device, dtypes_of(self.config)[0], case.compile)
        self.model = make_model(self.config, shape, world, empty=True)
        fill(self.model)
        self.optimizer = make_optimizer(self.model, self.config)

    def step(self, entries: Sequence[Entry]) -> float:
        """The loss; the device is done with all but the update."""
        batches = [prepare(batch, self.case.loss) for batch in make_batches(entries, self.rows, self.world.device)]
        with told_apart(self.case.loss):
            count = count_step(batches, False, self.world)
            own = accumulate_gradients(self.model, batches, count, 1, self.kernel, self.world)
        with record_function("part: clip"):
            norm = clip_gradients(self.model, self.config.clip_norm)
        loss, _ = look_at_step(own, norm, self.world)
        update(self.optimizer, self.config.learning_rate)
        return loss.mean


def make_config(case: Case, shape: Architecture, rows: int, dtype: str) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "output": "none",
            "datasets": [{"path": "none"}],
            "model": shape.model_dump(),
            "packs_per_step": rows,
            "packs_per_microbatch": rows,
            "steps": 1,
            "dtype": dtype,
            "attention": case.attention,
            "activation_checkpointing": case.checkpointing,
            "compile": case.compile,
        }
    )


def make_batches(entries: Sequence[Entry], rows: int, device: torch.device) -> list[Batch]:
    """As the feeder makes them: on the host, in pinned memory where there is a GPU."""
    seq_len = len(entries[0].pack.input_ids)
    parts = [entries[start : start + rows] for start in range(0, len(entries), rows)]
    batches = [make_batch(part, rows, seq_len, per_document=False) for part in parts]
    return [batch.pin_memory() for batch in batches] if device.type == "cuda" else batches


def prepare(batch: Batch, loss: Loss) -> Batch:
    """For `all logits` every place counts as trained, most of them with a weight of 0, as labels of -100 do."""
    if loss != "all logits":
        return batch
    places = torch.arange(batch.input_ids.numel())
    targets, weights, groups = torch.zeros_like(places), torch.zeros(len(places), dtype=torch.float64), places * 0
    targets[batch.places], weights[batch.places] = batch.targets, batch.weights
    return replace(batch, places=places, targets=targets, weights=weights, groups=groups)


def fill(model: nn.Module) -> None:
    """On the device, which takes no time; the trainer's own way, parameter by parameter on the host, takes a minute."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
            if name.endswith("bias"):
                local.zero_()
            elif name.endswith("norm.weight"):
                local.fill_(1.0)
            else:
                local.normal_(std=INITIAL_STD)


@contextmanager
def told_apart(loss: Loss) -> Iterator[None]:
    """The loss that the case asks for is in the place of the trainer's, and a part of its own in a profile."""
    before = train.model.linear_cross_entropy
    function = before if loss == "chunked" else plain_cross_entropy

    def call(*arguments: Any) -> tuple[Tensor, Tensor]:
        with record_function("part: loss"):
            return function(*arguments)

    train.model.linear_cross_entropy = call
    try:
        yield
    finally:
        train.model.linear_cross_entropy = before


def plain_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor, softmax: Any
) -> tuple[Tensor, Tensor]:
    """What `linear_cross_entropy` does, with all logits at once, as others have it."""
    losses = cross_entropy(linear(hidden, weight).float(), targets, reduction="none")
    return losses @ scale.to(losses.dtype), losses.detach()
