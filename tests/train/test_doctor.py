"""The doctor finds nothing where documents are isolated, and finds a leak where there is one."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import train.attention
from train.config import TrainConfig
from train.doctor import examine


@pytest.fixture
def config(tmp_path: Path, build_dataset: Callable[..., str], unequal_packs: Sequence[Any]) -> dict[str, Any]:
    return {
        "output": str(tmp_path / "run"),
        "datasets": [{"path": build_dataset(tmp_path / "data", unequal_packs)}],
        "model": "tiny",
        "packs_per_step": 2,
        "packs_per_microbatch": 2,
        "steps": 1,
    }


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_isolated_documents_pass(
    dtype: str, config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert examine(TrainConfig.model_validate({**config, "dtype": dtype}))
    printed = capsys.readouterr().out
    assert f"1 x cpu, attention by varlen, {dtype}, not compiled" in printed
    assert printed.count("  ok ") == 2 + 2 + 3  # two packs, of two and three documents
    assert "FAILED" not in printed
    assert not (tmp_path / "run").exists()


def causal_over_the_row(document_ids: Tensor, window: int | None) -> Tensor:
    rows, seq_len = document_ids.shape
    return torch.ones(rows, 1, seq_len, seq_len, dtype=torch.bool).tril()


def test_a_leak_is_found(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train.attention, "block_causal_mask", causal_over_the_row)
    assert not examine(TrainConfig.model_validate({**config, "dtype": "float64", "attention": "sdpa"}))
    printed = capsys.readouterr().out
    assert printed.count("FAILED") >= 4
    assert "FAILED document 0 changed" in printed
