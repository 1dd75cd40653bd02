"""What decays, what is clipped, and that a step moves the weights as AdamW says."""

import pytest
import torch

from train.architecture import PRESETS
from train.config import TrainConfig
from train.model import Decoder
from train.optim import clip_gradients, make_optimizer, update
from train.weights import initialise


def make_config(**changes: object) -> TrainConfig:
    values = {"output": "out", "datasets": [{"path": "data"}], "model": "tiny", "packs_per_step": 1, "steps": 20}
    return TrainConfig.model_validate({**values, "learning_rate": 1.0, **changes})


@pytest.fixture
def model() -> Decoder:
    shape = PRESETS["tiny"].model_copy(update={"vocab_size": 10, "attention_bias": True})
    model = Decoder(shape)
    initialise(model, 0)
    return model


def test_only_matrices_decay(model: Decoder) -> None:
    decayed, others = make_optimizer(model, make_config(weight_decay=0.5)).param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.5, 0.0)
    assert {parameter.ndim for parameter in decayed["params"]} == {2}
    assert {parameter.ndim for parameter in others["params"]} == {1}
    assert (
        len(others["params"]) == 2 * (2 + 4) + 1
    )  # in each of two blocks two norms and four biases, and the last norm
    assert len(decayed["params"]) + len(others["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize(("clip_norm", "left"), [(None, 5.0), (10.0, 5.0), (1.0, 1.0)])
def test_the_norm_is_that_before_clipping(clip_norm: float | None, left: float) -> None:
    model = torch.nn.Linear(2, 1, bias=False)
    model.weight.grad = torch.tensor([[3.0, 4.0]])
    assert clip_gradients(model, clip_norm) == pytest.approx(5.0)
    assert float(model.weight.grad.norm()) == pytest.approx(left, rel=1e-5)


def test_an_update_is_that_of_adamw_and_clears_the_gradients() -> None:
    """Written out for the first step: the moments' corrections cancel, so the sign of the gradient is left."""
    model = torch.nn.Linear(2, 1, bias=False)
    before = model.weight.detach().clone()
    optimizer = make_optimizer(model, make_config(weight_decay=0.1))
    model.weight.grad = torch.tensor([[3.0, -4.0]])
    update(optimizer, 0.01)
    expected = before * (1 - 0.01 * 0.1) - 0.01 * torch.tensor([[1.0, -1.0]])
    torch.testing.assert_close(model.weight.detach(), expected)
    assert model.weight.grad is None
