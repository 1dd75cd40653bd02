"""The learning rate as a function of the step, and what decays."""

import math

import pytest
import torch

from train.config import DatasetConfig, TrainConfig
from train.model import Decoder
from train.optim import learning_rate_at, make_optimizer, update


def make_config(**changes: object) -> TrainConfig:
    values = {"output": "out", "dataset": DatasetConfig(path="data"), "model": "tiny", "packs_per_step": 1}
    return TrainConfig.model_validate({**values, "steps": 20, "learning_rate": 1.0, **changes})


def test_warm_up_then_constant() -> None:
    config = make_config(warmup_steps=4)
    assert [learning_rate_at(step, config) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_warm_up_then_half_a_cosine() -> None:
    config = make_config(warmup_steps=10, schedule="cosine")
    rates = [learning_rate_at(step, config) for step in range(20)]
    assert rates[9:11] == [1.0, 1.0]
    assert rates[15] == pytest.approx(0.5)
    assert rates == sorted(rates[:10]) + sorted(rates[10:], reverse=True)
    assert rates[19] == pytest.approx(0.5 * (1 + math.cos(0.9 * math.pi)))


def test_only_matrices_decay() -> None:
    model = Decoder(make_config().model, vocab_size=10)
    decayed, others = make_optimizer(model, make_config(weight_decay=0.5)).param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.5, 0.0)
    assert {parameter.ndim for parameter in decayed["params"]} == {2}
    assert len(others["params"]) == 5  # two norms in each of two blocks, and the last
    assert len(decayed["params"]) + len(others["params"]) == len(list(model.parameters()))


def test_the_norm_is_that_before_clipping() -> None:
    model = torch.nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    for clip_norm, moved_by in ((None, 5.0), (1.0, 1.0)):
        before = model.weight.detach().clone()
        model.weight.grad = torch.tensor([[3.0, 4.0]])
        assert update(optimizer, model, 1.0, clip_norm) == pytest.approx(5.0)
        assert (before - model.weight).norm().item() == pytest.approx(moved_by, rel=1e-5)
        assert model.weight.grad is None
