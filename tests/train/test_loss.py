"""Chunked cross entropy against torch's own over full logits."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import train.loss
from train.loss import linear_cross_entropy

HIDDEN, VOCAB = 12, 30


def make_inputs(places: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(places)
    hidden = torch.randn(places, HIDDEN, dtype=dtype, requires_grad=True)
    weight = torch.randn(VOCAB, HIDDEN, dtype=dtype, requires_grad=True)
    return hidden, weight, torch.randint(0, VOCAB, (places,)), torch.rand(places, dtype=torch.float64)


def reference(hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    losses = cross_entropy(
        (hidden @ weight.t()).to(torch.promote_types(hidden.dtype, torch.float32)), targets, reduction="none"
    )
    return losses @ scale.to(losses.dtype), losses


@pytest.fixture(params=[VOCAB, 7 * VOCAB, 1000 * VOCAB], ids=["rows by one", "rows by seven", "one chunk"])
def chunk_elements(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train.loss, "CHUNK_ELEMENTS", request.param)


@pytest.mark.usefixtures("chunk_elements")
@pytest.mark.parametrize("places", [0, 1, 7, 20])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)
def test_sum_losses_and_gradients_are_those_of_full_logits(places: int, dtype: torch.dtype, tolerance: float) -> None:
    results = []
    for function in (linear_cross_entropy, reference):
        hidden, weight, targets, scale = make_inputs(places, dtype)
        total, losses = function(hidden, weight, targets, scale)
        (3 * total).backward()
        results.append((total.detach(), losses.detach(), hidden.grad, weight.grad))
    for found, expected in zip(*results, strict=True):
        assert found is not None
        assert expected is not None
        assert found.dtype == expected.dtype
        assert (found - expected).norm() <= tolerance * expected.norm()
        assert expected.norm() > 0 or not places


def test_the_losses_have_no_gradient_of_their_own() -> None:
    _, losses = linear_cross_entropy(*make_inputs(5, torch.float32))
    assert not losses.requires_grad


def test_without_gradients_only_losses_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(train.loss, "_slopes")
    hidden, weight, targets, scale = make_inputs(5, torch.float64)
    with torch.no_grad():
        total, _ = linear_cross_entropy(hidden, weight, targets, scale)
    assert total == pytest.approx(reference(hidden, weight, targets, scale)[0].item())
