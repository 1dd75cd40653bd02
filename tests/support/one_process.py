"""The loss and gradients of a step by one process that sees it all, one document and one trained token at a time."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from schemas.policy import DEFAULT_POLICY
from train.architecture import PRESETS
from train.attention import isolate
from train.model import Decoder
from train.weights import initialise

VOCAB_SIZE, SEED = 50, 3


def reference(
    documents: Sequence[Any], dtype: torch.dtype, *, weighted: bool, per_document: bool = False
) -> tuple[float, dict[str, Tensor]]:
    """(loss, gradients by name) of all documents together, of a tiny model made from SEED."""
    model = Decoder(PRESETS["tiny"].model_copy(update={"vocab_size": VOCAB_SIZE})).to(dtype)
    initialise(model, SEED)
    parts = [part for doc in documents if (part := add_up(model, doc, dtype, weighted))[1]]
    if per_document:
        loss = torch.stack([total / count for total, count in parts]).mean()
    else:
        loss = torch.stack([total for total, _ in parts]).sum() / sum(count for _, count in parts)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item(), {
        name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None
    }


def add_up(model: Decoder, doc: Any, dtype: torch.dtype, weighted: bool) -> tuple[Tensor, float]:
    """(sum of weight * loss, sum of weight) over one document's trained tokens, one by one."""
    ids, table = torch.tensor([doc.ids]), DEFAULT_POLICY.table()
    alone = isolate(torch.zeros_like(ids), torch.tensor([0, len(doc.ids)], dtype=torch.int32), "sdpa")
    logits = model.logits(ids, torch.arange(len(doc.ids))[None], alone)[0]
    total, count = torch.zeros((), dtype=dtype), 0.0
    for place in range(len(doc.ids) - 1):
        if table[doc.channel[place + 1]]:
            weight = doc.weight[place + 1] if weighted else 1.0
            total = total - weight * torch.log_softmax(logits[place], dim=-1)[doc.ids[place + 1]]
            count += weight
    return total, count
