"""The proof of the step: ranks x micro-batches give the loss and gradients of one process that sees it all.

The reference knows no packs, no batches and no code of the step: it runs the documents one by one, adds the log
probabilities of the trained tokens one by one, and divides by their number. Real gloo processes with FSDP2 must agree,
in every placement of the model: FSDP, HSDP and plain replicas, offloaded or not.
"""

import json
import math
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from one_process import SEED, VOCAB_SIZE, reference
from safetensors.torch import load_file
from torch import Tensor

from train.architecture import PRESETS
from train.checkpoint import list_checkpoints, load_model
from train.config import TrainConfig
from train.loop import train
from train.parallel import join_world
from train.plan import MODEL
from train.run import make_model
from train.weights import stream_full

pytestmark = pytest.mark.slow

CLIP_NORM = 0.01
DATA = ("counts", "weights")
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 0.05}
STEPS = {"even": [0, 1, 2, 3], "uneven": [4, 2, 1], "long": [0, 1, 4, 3, 2, 3, 1, 0, 1, 1, 2]}
TRAINED = {"even": 17, "uneven": 14, "long": 37}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "documents": {"loss_normalization": "documents"},
    "full": {"activation_checkpointing": "full"},
    "selective": {"activation_checkpointing": "selective"},
    "mask": {"attention": "sdpa", "balance": True},
}
BOTH_LOSSES = ("plain", "documents")
PLACEMENTS: dict[str, dict[str, Any]] = {
    "fsdp": {},
    "hsdp": {"shard_ranks": 2},
    "replicas": {"shard_ranks": 1},
    "offload": {"cpu_offload": True},
    "hsdp offload": {"shard_ranks": 2, "cpu_offload": True},
}
LAYOUTS = {1: "1 rank x 4 micro-batches", 2: "2 x 2", 4: "4 x 1, or 4 x 3 in several placements"}


@dataclass(frozen=True)
class Case:
    dtype: str
    data: str
    step: str
    variant: str
    placement: str

    @property
    def name(self) -> str:
        return "-".join(vars(self).values())


def cases_of(ranks: int) -> list[Case]:
    cases = [
        Case(dtype, data, step, variant, "fsdp")
        for dtype, variants in (("float64", VARIANTS), ("float32", BOTH_LOSSES))
        for data, step, variant in product(DATA, ("even", "uneven"), variants)
    ]
    if ranks == 4:
        placed = [("float64", *parts) for parts in product(BOTH_LOSSES, PLACEMENTS)]
        placed += [("float32", "plain", "hsdp offload"), ("bfloat16", "plain", "hsdp")]
        cases += [Case(dtype, "weights", "long", variant, placement) for dtype, variant, placement in placed]
    return cases


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("step")


@pytest.fixture
def datasets(folder: Path, build_dataset: Callable[..., str], unequal_packs: Sequence[Any]) -> dict[str, str]:
    return {data: build_dataset(folder / data, unequal_packs, weights=data == "weights") for data in DATA}


@pytest.fixture
def run_ranks(
    folder: Path, datasets: dict[str, str], fork_ranks: Callable[..., subprocess.CompletedProcess[str]]
) -> Callable[[int], Path]:
    """Runs ranks once for all tests, and gives the folder of what they found. Four ranks also do `placed_runs`."""

    def run(ranks: int) -> Path:
        output = folder / f"ranks-{ranks}"
        if not output.exists():
            output.mkdir()
            cases = {case.name: describe(case, datasets) for case in cases_of(ranks)}
            jobs = [write_json(output / "cases.json", cases), output]
            if ranks == 4:
                train(TrainConfig.model_validate(run_config(output / "run", datasets, 1)))
                (output / "run" / MODEL).rename(output / "run" / "trained alone")
                jobs += [write_json(output / "runs.json", placed_runs(output / "run", datasets))]
            done = fork_ranks(ranks, Path(__file__).with_name("gradient_worker.py"), *jobs)
            assert done.returncode == 0, done.stderr
        return output

    return run


def write_json(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def describe(case: Case, datasets: dict[str, str]) -> dict[str, Any]:
    """Most deal packs in turn, so that ranks have as unequal parts as can be."""
    config = {
        "output": "none",
        "model": "tiny",
        "packs_per_step": 4,
        "steps": 1,
        "seed": SEED,
        "balance": False,
        "clip_norm": CLIP_NORM,
        "dtype": case.dtype,
        "datasets": [{"path": datasets[case.data]}],
    }
    return {"packs": STEPS[case.step], "config": {**config, **VARIANTS[case.variant], **PLACEMENTS[case.placement]}}


@pytest.mark.parametrize("ranks", LAYOUTS, ids=LAYOUTS.values())
def test_ranks_and_microbatches_equal_one_process(
    ranks: int, run_ranks: Callable[[int], Path], unequal_packs: Sequence[Any]
) -> None:
    output = run_ranks(ranks)
    expected: dict[tuple[Any, ...], tuple[float, dict[str, Tensor]]] = {}
    for case in cases_of(ranks):
        result = torch.load(output / f"{case.name}.pt")
        assert_hard_enough(result, case.step, ranks, in_turn=case.variant != "mask")
        exact = "float32" if case.dtype == "bfloat16" else case.dtype
        by_document = case.variant == "documents"
        key = exact, case.data, case.step, by_document
        if key not in expected:
            documents = [doc for pack in STEPS[case.step] for doc in unequal_packs[pack]]
            weighted = case.data == "weights"
            expected[key] = reference(documents, getattr(torch, exact), weighted=weighted, per_document=by_document)
        loss, grads = expected[key]
        assert result["loss"] == pytest.approx(loss, rel=TOLERANCE[case.dtype])
        assert_same_gradients(result["grads"], grads, TOLERANCE[case.dtype])
        norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in grads.values()))
        assert result["norm"] == pytest.approx(norm, rel=TOLERANCE[case.dtype])
        clipped = {name: gradient * (CLIP_NORM / (norm + 1e-6)) for name, gradient in grads.items()}
        assert_same_gradients(result["clipped"], clipped, TOLERANCE[case.dtype])
        assert result["agreed"]
        assert_once_a_step(result, case)


def assert_once_a_step(result: dict[str, Any], case: Case) -> None:
    """Each block, the embeddings and the rest are summed within a replica after each micro-batch, so that no rank ever
    keeps more than its part; and over the replicas once, in float32 or better. Losses are summed later.
    """
    groups = PRESETS["tiny"].num_hidden_layers + 2
    dtype = "torch.float64" if case.dtype == "float64" else "torch.float32"
    counts = result["wire"]
    replicated = "shard_ranks" in PLACEMENTS[case.placement]
    sharded = case.placement != "replicas" and len(result["by_rank"]) > 1
    assert counts[f"c10d::allreduce_ {dtype}"] == (groups if replicated else 0)
    assert counts[f"c10d::_reduce_scatter_base_ {dtype}"] == (groups * result["microbatches"] if sharded else 0)


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Relative to each tensor's norm."""
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.norm() > 1e-6, name
        assert (found[name] - gradient).norm() <= tolerance * gradient.norm(), name


def assert_hard_enough(result: dict[str, Any], step: str, ranks: int, *, in_turn: bool) -> None:
    """Ranks train unequal numbers of tokens; of four, and of two where packs are dealt in turn, one has nothing to
    train at all."""
    assert sum(result["by_rank"]) == result["count"] == TRAINED[step]
    assert result["microbatches"] == -(-len(STEPS[step]) // ranks)
    if ranks == 4 or (ranks == 2 and step == "even"):
        assert (0 in result["by_rank"]) == (ranks == 4 or in_turn)
    assert len(set(result["by_rank"])) == (ranks if step == "long" else min(ranks, 3))


def test_what_is_proved_makes_a_difference(unequal_packs: Sequence[Any]) -> None:
    """Guards the proof: weights, documents and the mean of the packs' means each give another loss."""
    documents = [doc for pack in STEPS["even"] for doc in unequal_packs[pack]]
    plain, weighted = (reference(documents, torch.float64, weighted=weighted)[0] for weighted in (False, True))
    by_document = reference(documents, torch.float64, weighted=False, per_document=True)[0]
    means = [reference(unequal_packs[pack], torch.float64, weighted=False)[0] for pack in (0, 2)]
    losses = [plain, weighted, by_document, sum(means) / 2]
    assert all(abs(one - other) > 1e-4 for number, one in enumerate(losses) for other in losses[:number])


def run_config(output: Path, datasets: dict[str, str], steps: int) -> dict[str, Any]:
    entry = {"path": datasets["weights"]}
    return {
        "output": str(output),
        "datasets": [entry],
        "model": "tiny",
        "packs_per_step": 9,
        "steps": steps,
        "seed": SEED,
        "dtype": "float64",
        "learning_rate": 0.01,
        "validation": {"datasets": [entry], "every": 1},
        "checkpoints": {"every": 1, "keep": 99},
    }


def placed_runs(output: Path, datasets: dict[str, str]) -> dict[str, dict[str, Any]]:
    """A run of one rank that goes on after its first step, each time for one step in another placement. In between it
    is loaded there and exported as it is. Replicas write their checkpoints in the background."""
    return {
        f"{what} by {name}": {
            **run_config(output, datasets, steps),
            **placement,
            "checkpoints": {"every": 1, "keep": 99, "background": "shard_ranks" in placement},
        }
        for number, (name, placement) in enumerate(PLACEMENTS.items(), 1)
        for what, steps in (("loaded", number), ("trained", number + 1))
    }


def test_a_run_moves_between_placements_as_if_it_had_stayed(
    run_ranks: Callable[[int], Path], datasets: dict[str, str], tmp_path: Path
) -> None:
    """Checkpoints and exports hold the same bits wherever they are written and read; metrics are those of one rank."""
    output = run_ranks(4) / "run"
    config = TrainConfig.model_validate(run_config(tmp_path / "alone", datasets, len(PLACEMENTS) + 1))
    train(config)
    checkpoints = list_checkpoints(output)
    before = load_file(output / "trained alone" / "model.safetensors")
    with join_world() as world:
        model = make_model(config, PRESETS["tiny"].model_copy(update={"vocab_size": VOCAB_SIZE}), world)
        for name, checkpoint in zip(PLACEMENTS, checkpoints[1:], strict=True):
            assert_same_bits(load_file(output / f"loaded by {name}" / "model.safetensors"), before)
            after = load_file(output / f"trained by {name}" / "model.safetensors")
            assert not torch.equal(after["model.norm.weight"], before["model.norm.weight"])
            load_model(checkpoint, model)
            assert_same_bits(dict(stream_full(model)), after)
            before = after
    alone, moved = (read_metrics(folder) for folder in (tmp_path / "alone", output))
    assert len(alone) == 2 * len(PLACEMENTS) + 3
    for one, other in zip(alone, moved, strict=True):
        assert (one["event"], one["step"]) == (other["event"], other["step"])
        for key in {"loss", "losses", "grad_norm", "trained_tokens"} & one.keys():
            assert other[key] == pytest.approx(one[key], rel=1e-9), (key, one["step"])


def read_metrics(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def assert_same_bits(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
