"""The same model from transformers, in the loop that its users write: autocast, labels, AdamW.

Documents are kept apart by the positions that restart, which is how transformers knows packs.
"""

from collections.abc import Sequence
from typing import Any

import torch
from gpu.cases import Case
from gpu.ours import make_batches, make_config
from gpu.shapes import transformers_config
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.profiler import record_function

from train.architecture import Architecture
from train.batch import Batch, Entry
from train.config import TrainConfig
from train.optim import make_optimizer, update
from train.weights import hugging_face_names

IGNORED = -100


class Theirs:
    """Another model in that loop. `rows`: packs of a micro-batch."""

    def __init__(self, name: str, model: Any, config: TrainConfig, rows: int, device: torch.device) -> None:
        self.name, self.model, self.config, self.rows, self.device = name, model, config, rows, device
        self.optimizer = make_optimizer(model, config)

    def step(self, entries: Sequence[Entry]) -> float:
        batches = make_batches(entries, self.rows, self.device)
        trained = sum(len(batch.places) for batch in batches)
        total = torch.zeros((), device=self.device)
        for batch in batches:
            loss = self.loss(batch, trained)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        with record_function("part: clip"):
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm or float("inf"))
        update(self.optimizer, self.config.learning_rate)
        return float(total)

    def loss(self, batch: Batch, trained: int) -> Tensor:
        """The batch's part of the step's mean, from a batch on the host."""
        raise NotImplementedError

    def take_weights(self, weights: dict[str, Tensor]) -> None:
        """By their names in transformers."""
        raise NotImplementedError


class Transformers(Theirs):
    """Its weights are float32 and products are bfloat16, as on our side. `checkpointing`: whether blocks are computed
    again."""

    def __init__(
        self, case: Case, shape: Architecture, rows: int, checkpointing: bool, dtype: str, device: torch.device
    ) -> None:
        from transformers import AutoModelForCausalLM

        assert case.beside is not None
        with torch.device(device):
            model: Any = AutoModelForCausalLM.from_config(
                transformers_config(shape), attn_implementation=case.beside, dtype=torch.float32
            )
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if case.beside_compile:
            model.model.compile()
        told = [case.beside, *["compiled"] * case.beside_compile, *["checkpointing"] * checkpointing]
        super().__init__(f"transformers, {', '.join(told)}", model, make_config(case, shape, rows, dtype), rows, device)
        self.laid_end_to_end = case.beside.startswith("flash")
        self.dtype = getattr(torch, dtype)

    def loss(self, batch: Batch, trained: int) -> Tensor:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32):
            inputs = make_inputs(batch.to(self.device), self.laid_end_to_end)
            loss: Tensor = self.model(**inputs, use_cache=False, num_items_in_batch=trained).loss
        return loss

    def take_weights(self, weights: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(weights.pop(name))
        assert not weights


def make_inputs(batch: Batch, laid_end_to_end: bool) -> dict[str, Tensor]:
    """int64[B, seq_len], or laid end to end [1, B * seq_len]: with flash attention, transformers keeps the documents of
    a single row apart, and of several rows it does not."""
    inputs = {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "labels": make_labels(batch)}
    return {name: x.view(1, -1) if laid_end_to_end else x for name, x in inputs.items()}


def make_labels(batch: Batch) -> Tensor:
    """int64[B, seq_len]; they are shifted by the model itself, so a target stands where its token is."""
    labels = torch.full_like(batch.input_ids, IGNORED).flatten()
    labels[batch.places + 1] = batch.targets
    return labels.view_as(batch.input_ids)


def copy_weights(ours: Any, theirs: Any) -> None:
    """From our side, whose weights may be sharded, in a world of one."""
    weights = hugging_face_names(ours.model)
    theirs.take_weights({name: own.full_tensor() if isinstance(own, DTensor) else own for name, own in weights.items()})
