"""Validation uses the arithmetic of training: the loss over all trained tokens, whatever the batches and the ranks."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas.policy import PRESETS as POLICIES
from train.architecture import PRESETS
from train.attention import isolate
from train.config import TrainConfig
from train.loop import train
from train.model import Decoder
from train.weights import initialise

SEED = 5


def mean_loss(documents: Sequence[Any], policy: str, weighted: bool) -> float:
    """One document and one token at a time, before the first step."""
    model = Decoder(PRESETS["tiny"].model_copy(update={"vocab_size": 50})).double()
    initialise(model, SEED)
    table = POLICIES[policy].table()
    total, count = 0.0, 0.0
    for doc in documents:
        ids = torch.tensor([doc.ids])
        alone = isolate(torch.zeros_like(ids), torch.tensor([0, len(doc.ids)], dtype=torch.int32), "sdpa")
        logits = model.logits(ids, torch.arange(len(doc.ids))[None], alone)[0]
        for place in range(len(doc.ids) - 1):
            if table[doc.channel[place + 1]]:
                weight = doc.weight[place + 1] if weighted else 1.0
                total -= weight * float(torch.log_softmax(logits[place].detach(), -1)[doc.ids[place + 1]])
                count += weight
    return total / count


@pytest.mark.parametrize("packs_per_microbatch", [1, 2, 7])
def test_the_loss_before_the_first_step_is_that_of_the_documents(
    packs_per_microbatch: int, tmp_path: Path, build_dataset: Callable[..., str], unequal_packs: Sequence[Any]
) -> None:
    """Two data sets, one with weights and a policy of its own; of one only the first packs of a fixed choice."""
    paths = {name: build_dataset(tmp_path / name, unequal_packs, weights=name == "two") for name in ("one", "two")}
    config = TrainConfig.model_validate(
        {
            "output": tmp_path / "run",
            "datasets": [{"path": paths["one"]}],
            "model": "tiny",
            "seed": SEED,
            "dtype": "float64",
            "packs_per_step": 2,
            "packs_per_microbatch": packs_per_microbatch,
            "steps": 5,
            "learning_rate": 0.01,
            "validation": {
                "every": 2,
                "datasets": [{"path": paths["one"]}, {"path": paths["two"], "loss_policy": "all"}],
            },
        }
    )
    train(config)
    events = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    found = [event for event in events if event["event"] == "validation"]
    assert [event["step"] for event in found] == [0, 2, 4, 5]
    documents = [doc for pack in unequal_packs for doc in pack]
    assert found[0]["losses"]["one"] == pytest.approx(mean_loss(documents, "assistant", False), rel=1e-9)
    assert found[0]["losses"]["two"] == pytest.approx(mean_loss(documents, "all", True), rel=1e-9)
    assert found[-1]["losses"]["one"] < found[0]["losses"]["one"]
