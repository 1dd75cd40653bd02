"""The proof of the step: ranks x micro-batches give the loss and gradients of one process that sees it all.

The reference knows no packs, no batches and no code of the step: it runs the documents one by one, adds the log
probabilities of the trained tokens one by one, and divides by their number. Real gloo processes with FSDP2 must agree.
"""

import json
import subprocess
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from schemas.policy import DEFAULT_POLICY
from train.architecture import PRESETS
from train.attention import block_causal_mask
from train.model import Decoder
from train.weights import initialise

pytestmark = pytest.mark.slow

VOCAB_SIZE, SEED = 50, 3
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}
STEPS = {"even": [0, 1, 2, 3], "uneven": [4, 2, 1]}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "documents": {"loss_normalization": "documents"},
    "full": {"activation_checkpointing": "full"},
    "selective": {"activation_checkpointing": "selective"},
    "mask": {"attention": "sdpa", "balance": False},
}
LAYOUTS = {1: "1 rank x 4 micro-batches", 2: "2 x 2", 4: "4 x 1"}


def case_names() -> list[str]:
    return ["-".join(parts) for parts in product(TOLERANCE, ("counts", "weights"), STEPS, VARIANTS)]


def reference(
    documents: Sequence[Any], dtype: torch.dtype, *, weighted: bool, per_document: bool = False
) -> tuple[float, dict[str, Tensor]]:
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
    logits = model.logits(ids, torch.arange(len(doc.ids))[None], block_causal_mask(torch.zeros_like(ids)))[0]
    total, count = torch.zeros((), dtype=dtype), 0.0
    for place in range(len(doc.ids) - 1):
        if table[doc.channel[place + 1]]:
            weight = doc.weight[place + 1] if weighted else 1.0
            total = total - weight * torch.log_softmax(logits[place], dim=-1)[doc.ids[place + 1]]
            count += weight
    return total, count


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("step")


@pytest.fixture
def cases(folder: Path, build_dataset: Callable[..., str], unequal_packs: Sequence[Any]) -> Path:
    paths = {
        data: build_dataset(folder / data, unequal_packs, weights=data == "weights") for data in ("counts", "weights")
    }
    common: dict[str, Any] = {"output": "none", "model": "tiny", "packs_per_step": 4, "steps": 1, "seed": SEED}
    cases: dict[str, Any] = {}
    for name in case_names():
        dtype, data, step, variant = name.split("-")
        config = {**common, **VARIANTS[variant], "dtype": dtype, "datasets": [{"path": paths[data]}]}
        cases[name] = {"packs": STEPS[step], "config": config}
    (folder / "cases.json").write_text(json.dumps(cases))
    return folder / "cases.json"


@pytest.mark.parametrize("ranks", LAYOUTS, ids=LAYOUTS.values())
def test_ranks_and_microbatches_equal_one_process(
    ranks: int,
    cases: Path,
    unequal_packs: Sequence[Any],
    launch: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    worker = Path(__file__).with_name("gradient_worker.py")
    done = launch("torchrun", "--standalone", "--nproc-per-node", ranks, worker, cases, tmp_path)
    assert done.returncode == 0, done.stderr
    for name in case_names():
        dtype, data, step, variant = name.split("-")
        result = torch.load(tmp_path / f"{name}.pt")
        assert_hard_enough(result, step, ranks, in_turn=variant == "mask")
        documents = [doc for pack in STEPS[step] for doc in unequal_packs[pack]]
        loss, grads = reference(
            documents, getattr(torch, dtype), weighted=data == "weights", per_document=variant == "documents"
        )
        assert result["loss"] == pytest.approx(loss, rel=TOLERANCE[dtype])
        assert_same_gradients(result["grads"], grads, TOLERANCE[dtype])


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Relative to each tensor's norm."""
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.norm() > 1e-6, name
        assert (found[name] - gradient).norm() <= tolerance * gradient.norm(), name


def assert_hard_enough(result: dict[str, Any], step: str, ranks: int, *, in_turn: bool) -> None:
    """Ranks train unequal numbers of tokens, and one of four or of two has nothing to train at all."""
    assert sum(result["by_rank"]) == result["count"] == {"even": 17, "uneven": 14}[step]
    assert result["microbatches"] == -(-len(STEPS[step]) // ranks)
    if ranks == 4 or (ranks == 2 and step == "even"):
        assert (0 in result["by_rank"]) == (ranks == 4 or in_turn)
    assert len(set(result["by_rank"])) == (1 if ranks == 1 else 2 if ranks == 2 else 3)


def test_what_is_proved_makes_a_difference(unequal_packs: Sequence[Any]) -> None:
    """Guards the proof: weights, documents and the mean of the packs' means each give another loss."""
    documents = [doc for pack in STEPS["even"] for doc in unequal_packs[pack]]
    plain, weighted = (reference(documents, torch.float64, weighted=weighted)[0] for weighted in (False, True))
    by_document = reference(documents, torch.float64, weighted=False, per_document=True)[0]
    means = [reference(unequal_packs[pack], torch.float64, weighted=False)[0] for pack in (0, 2)]
    losses = [plain, weighted, by_document, sum(means) / 2]
    assert all(abs(one - other) > 1e-4 for number, one in enumerate(losses) for other in losses[:number])
