"""Loading, running, exporting and initialising on 2 and 3 ranks is the same as on one, and no rank holds it all."""

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hugging_face_models import make_model, save_model
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

pytestmark = pytest.mark.slow

FAMILIES = {"llama3.2": "5GB", "qwen2": "10KB", "qwen3": "5GB"}
VOCAB_SIZE = 97  # no multiple of 2 or 3


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    return [
        save_model(make_model(family, vocab_size=VOCAB_SIZE), folder / family, max_shard_size=size)
        for family, size in FAMILIES.items()
    ]


@pytest.fixture
def run_ranks(
    models: list[Path],
    fork_ranks: Callable[..., subprocess.CompletedProcess[str]],
    build_dataset: Callable[..., str],
    unequal_packs: Sequence[Any],
    tmp_path: Path,
) -> Callable[[int], Path]:
    dataset = build_dataset(tmp_path / "data", unequal_packs)
    worker = Path(__file__).with_name("weights_worker.py")

    def run(ranks: int) -> Path:
        output = tmp_path / f"ranks-{ranks}"
        output.mkdir()
        done = fork_ranks(ranks, worker, dataset, output, *models)
        assert done.returncode == 0, done.stderr
        return output

    return run


def read_tensors(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def test_ranks_hold_parts_and_give_the_whole(run_ranks: Callable[[int], Path], models: list[Path]) -> None:
    one, *others = (run_ranks(ranks) for ranks in (1, 2, 3))
    alone = json.loads((one / "facts.json").read_text())
    for folder in models:
        source = read_tensors(folder)
        source.pop("lm_head.weight", None) if folder.name != "qwen2" else None
        assert_same(read_tensors(one / folder.name), source)
    for ranks, output in enumerate(others, 2):
        facts = json.loads((output / "facts.json").read_text())
        for folder in models:
            found, expected = facts[folder.name], alone[folder.name]
            assert found["whole"] == expected["whole"] == expected["held"][0]
            assert len(found["held"]) == ranks
            # Equal shares, rounded up by at most a row of each matrix.
            assert max(found["held"]) < 1.25 * found["whole"] / ranks
            for name, value in expected["run"].items():
                assert value > 0
                assert found["run"][name] == pytest.approx(value, rel=1e-4), name
            assert_same(read_tensors(output / folder.name), read_tensors(one / folder.name))
            assert_same(load_file(output / f"{folder.name}.fresh"), load_file(one / f"{folder.name}.fresh"))
            assert_loads(output / folder.name, folder)
        assert not list(output.glob(".*"))


def assert_loads(exported: Path, source: Path) -> None:
    """In files that were cut."""
    assert len(list(exported.glob("model-*-of-*.safetensors"))) > 1
    ids = torch.arange(30)[None]
    found, expected = (AutoModelForCausalLM.from_pretrained(path) for path in (exported, source))
    assert torch.equal(found(ids).logits, expected(ids).logits)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
