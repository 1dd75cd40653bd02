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
from train.optim import make_optimizer
from train.weights import hugging_face_names

IGNORED = -100


class Theirs:
    """Its weights are float32 and products are bfloat16, as on our side. `rows`: packs of a micro-batch;
    `checkpointing`: whether blocks are computed again."""

    def __init__(
        self, case: Case, shape: Architecture, rows: int, checkpointing: bool, dtype: str, device: torch.device
    ) -> None:
        from transformers import AutoModelForCausalLM

        assert case.beside is not None
        told = [case.beside, *["compiled"] * case.beside_compile, *["checkpointing"] * checkpointing]
        self.name = f"transformers, {', '.join(told)}"
        self.laid_end_to_end = case.beside.startswith("flash")
        self.rows, self.device, self.dtype = rows, device, getattr(torch, dtype)
        self.config = make_config(case, shape, rows, dtype)
        with torch.device(device):
            self.model: Any = AutoModelForCausalLM.from_config(
                transformers_config(shape), attn_implementation=case.beside, dtype=torch.float32
            )
        self.model.train()
        if checkpointing:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if case.beside_compile:
            self.model.model.compile()
        self.optimizer = make_optimizer(self.model, self.config)

    def step(self, entries: Sequence[Entry]) -> float:
        batches = make_batches(entries, self.rows, self.device)
        trained = sum(len(batch.places) for batch in batches)
        total = torch.zeros((), device=self.device)
        for batch in batches:
            loss = self._loss(batch.to(self.device), trained)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        with record_function("part: clip"):
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm or float("inf"))
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(total)

    def _loss(self, batch: Batch, trained: int) -> Tensor:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32):
            inputs = make_inputs(batch, self.laid_end_to_end)
            loss: Tensor = self.model(**inputs, use_cache=False, num_items_in_batch=trained).loss
        return loss


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
    with torch.no_grad():
        for name, parameter in theirs.model.named_parameters():
            own = weights.pop(name)
            parameter.copy_(own.full_tensor() if isinstance(own, DTensor) else own)
    assert not weights
