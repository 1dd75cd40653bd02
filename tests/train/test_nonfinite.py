"""A loss that is not finite is told, even where neither the step's packs nor what was done before can be saved."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import train.nonfinite
import train.parallel
from train import loop
from train.__main__ import main
from train.checkpoint import CheckpointError


@pytest.mark.parametrize("name", ["nonfinite.json", "no folder/nonfinite.json"])
def test_what_is_not_finite_is_told_even_where_nothing_can_be_saved(
    name: str,
    tmp_path: Path,
    build_dataset: Callable[..., str],
    unequal_packs: Sequence[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: Any) -> None:
        raise CheckpointError("the checkpoint of step 0 could not be written: No space left on device")

    config = {
        "output": str(tmp_path / "run"),
        "datasets": [{"path": build_dataset(tmp_path / "data", unequal_packs)}],
        "model": "tiny",
        "packs_per_step": 5,
        "steps": 1,
    }
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    monkeypatch.setattr(loop, "clip_gradients", lambda *_: torch.tensor(float("nan")))
    monkeypatch.setattr(loop, "write_checkpoint", full)
    monkeypatch.setattr(train.nonfinite, "NONFINITE", name)
    monkeypatch.setattr(train.parallel, "end_process", sys.exit)
    monkeypatch.setattr(sys, "argv", ["packline-train", str(tmp_path / "config.yaml")])
    with pytest.raises(SystemExit, match="1"):
        main()
    torch.distributed.destroy_process_group()
    first, second = capsys.readouterr().err.splitlines()
    is_written = (tmp_path / "run" / "nonfinite.json").exists()
    assert is_written == (name == "nonfinite.json")
    assert ("packs are in" if is_written else "packs could not be written: ") in first
    assert "; the loss itself is finite" in first
    assert "the checkpoint of step 0 could not be written" in second
