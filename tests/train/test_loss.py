"""Chunked cross entropy against torch's own over full logits."""

from typing import Any

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
    monkeypatch.setattr(train.loss, "CHUNK_ELEMENTS", {"cpu": request.param})


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


def test_without_gradients_only_losses_are_made() -> None:
    def no_softmax(logits: Tensor, answers: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        raise AssertionError("nobody needs it")

    hidden, weight, targets, scale = make_inputs(5, torch.float64)
    with torch.no_grad():
        total, _ = linear_cross_entropy(hidden, weight, targets, scale, no_softmax)
    assert total == pytest.approx(reference(hidden, weight, targets, scale)[0].item())


@pytest.mark.parametrize("gap", [0.0, 30.0, 200.0])
def test_gradients_are_exact_where_the_answer_is_certain_or_impossible(gap: float) -> None:
    """With logits of +-gap the loss is 0 or enormous; in float64 the same is computed by autograd."""
    weight = torch.eye(VOCAB, HIDDEN, requires_grad=True)
    hidden = torch.stack((gap * torch.eye(HIDDEN)[0], -gap * torch.eye(HIDDEN)[0])).requires_grad_()
    targets, scale = torch.zeros(2, dtype=torch.long), torch.tensor([0.25, 4.0], dtype=torch.float64)
    total, _ = linear_cross_entropy(hidden, weight, targets, scale)
    total.backward()  # type: ignore[no-untyped-call]
    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight)]
    reference(*exact, targets, scale)[0].backward()  # type: ignore[no-untyped-call]
    for found, expected in zip((hidden, weight), exact, strict=True):
        assert found.grad is not None
        assert expected.grad is not None
        torch.testing.assert_close(found.grad.double(), expected.grad, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize(("places", "most", "sizes"), [(0, 5, []), (5, 5, [5]), (6, 5, [3, 3]), (16, 5, [4] * 4)])
def test_chunks_are_of_about_equal_size(places: int, most: int, sizes: list[int], monkeypatch: Any) -> None:
    monkeypatch.setattr(train.loss, "CHUNK_ELEMENTS", {"cpu": most * VOCAB + 1})
    chunks = list(train.loss._chunks(places, VOCAB, torch.device("cpu")))
    assert [len(range(places)[chunk]) for chunk in chunks] == sizes
    assert [place for chunk in chunks for place in range(places)[chunk]] == list(range(places))


def test_sums_in_one_kernel_are_those_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the addmm of CUDA, which a CPU has not: it rounds no product, and is closer to the truth."""
    asked, addmm = [], torch.addmm

    def finer_addmm(total: Tensor, left: Tensor, right: Tensor, *, out_dtype: torch.dtype, out: Tensor) -> Tensor:
        asked.append(out_dtype)
        return addmm(total, left.to(out_dtype), right.to(out_dtype), out=out)

    def weight_error() -> float:
        hidden, weight, targets, scale = make_inputs(20, torch.bfloat16)
        linear_cross_entropy(hidden, weight, targets, scale)[0].backward()  # type: ignore[no-untyped-call]
        exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight)]
        reference(*exact, targets, scale)[0].backward()  # type: ignore[no-untyped-call]
        assert weight.grad is not None
        assert exact[1].grad is not None
        return float((weight.grad - exact[1].grad).norm() / exact[1].grad.norm())

    monkeypatch.setattr(train.loss, "CHUNK_ELEMENTS", {"cpu": 4 * VOCAB})
    in_two = weight_error()
    assert not train.loss.adds_finer(torch.device("cpu"), torch.bfloat16, torch.float32)
    train.loss.adds_finer.cache_clear()
    monkeypatch.setattr(torch, "addmm", finer_addmm)
    in_one = weight_error()
    train.loss.adds_finer.cache_clear()
    assert asked == [torch.float32] * (1 + 20 // 4)
    assert 0 < in_one < in_two
