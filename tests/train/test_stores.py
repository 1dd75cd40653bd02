"""Training from an object store, with ranks that share a cache."""

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from servers import Store

from schemas.errors import DatasetError
from schemas.store import Folder
from train.config import TrainConfig
from train.loop import train

pytestmark = pytest.mark.slow


def upload(local: Path, folder: Folder) -> None:
    for path in local.rglob("*"):
        if path.is_file():
            folder.write(path.relative_to(local).as_posix(), path.read_bytes())


def losses(output: Path) -> list[float]:
    """Of steps and validations, in order."""
    events = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    return [event["loss"] if event["event"] == "step" else event["losses"]["data (holdout)"] for event in events]


def test_ranks_train_from_a_store_as_from_a_folder(
    tmp_path: Path,
    build_dataset: Callable[..., str],
    unequal_packs: Sequence[Any],
    moto_store: Store,
    fork_ranks: Callable[..., subprocess.CompletedProcess[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A damaged object then stops a run whose cache is empty, before the first step that reads it. Its cache is too
    small for anything, which is told."""
    path = build_dataset(tmp_path / "data", unequal_packs, holdout=unequal_packs[:2])
    folder = Folder(f"{moto_store.new_folder().url}/data", moto_store.profile)
    upload(Path(path), folder)
    config = {
        "output": str(tmp_path / "local"),
        "datasets": [{"path": path}],
        "validation": {"every": 2, "datasets": [{"path": path, "holdout": True}]},
        "model": "tiny",
        "packs_per_step": 2,
        "steps": 4,
    }
    train(TrainConfig.model_validate(config))
    remote: dict[str, Any] = {
        **config,
        "datasets": [{"path": folder.url, "profile": folder.profile}],
        "validation": {"every": 2, "datasets": [{"path": folder.url, "profile": folder.profile, "holdout": True}]},
        "cache": {"folder": str(tmp_path / "cache")},
        "output": str(tmp_path / "remote"),
    }
    (tmp_path / "config.yaml").write_text(json.dumps(remote))
    done = fork_ranks(2, "-m", "train", tmp_path / "config.yaml")
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "remote") == pytest.approx(losses(tmp_path / "local"), rel=1e-4)
    assert len(losses(tmp_path / "remote")) == 4 + 3
    names = ["shards/00000.arrow", "shards/00003.arrow", "shards/holdout.arrow"]
    assert sorted(file.read_bytes() for file in (tmp_path / "cache").iterdir()) == sorted(map(folder.read, names))
    assert_model(tmp_path)
    content = folder.read(names[1])
    folder.write(names[1], content[:-1] + bytes([content[-1] ^ 1]))
    damaged = {
        **remote,
        "output": str(tmp_path / "damaged"),
        "cache": {"folder": str(tmp_path / "empty"), "max_gib": 1e-6},
    }
    with pytest.raises(DatasetError, match=r"/shards/00003\.arrow: shard is damaged"):
        train(TrainConfig.model_validate(damaged))
    assert "two windows of shards" in capsys.readouterr().out
    torch.distributed.destroy_process_group()


def assert_model(folder: Path) -> None:
    """The exported model has the files of tokenizer/, from whichever place."""
    names = [sorted(file.name for file in (folder / output / "model").iterdir()) for output in ("local", "remote")]
    assert names[0] == names[1]
    assert "tokenizer_config.json" in names[0]
