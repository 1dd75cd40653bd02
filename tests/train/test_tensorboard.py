"""The event files say what metrics.jsonl says, as a reader of them finds it."""

import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from schemas.errors import ConfigError
from train.config import TrainConfig
from train.loop import train
from train.tensorboard import list_scalars

Points = dict[tuple[str, int], float]


@pytest.fixture
def config(tmp_path: Path, build_weighted: Callable[[Path], list[dict[str, Any]]]) -> dict[str, Any]:
    datasets = build_weighted(tmp_path)
    return {
        "output": str(tmp_path / "run"),
        "datasets": datasets,
        "model": "tiny",
        "packs_per_step": 3,
        "steps": 4,
        "validation": {"every": 2, "datasets": [{"path": datasets[0]["path"]}]},
        "checkpoints": {"every": 2},
        "tensorboard": True,
    }


def read_events(output: Path) -> tuple[Points, EventAccumulator]:
    events = EventAccumulator(str(output / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    points = [((tag, event.step), event.value) for tag in events.Tags()["scalars"] for event in events.Scalars(tag)]
    assert len(dict(points)) == len(points)
    return dict(points), events


def read_metrics(output: Path) -> Points:
    points: Points = {}
    for line in map(json.loads, (output / "metrics.jsonl").read_text().splitlines()):
        event, step = line.pop("event"), line.pop("step")
        if event == "validation":
            points |= {(f"validation/{name}", step): loss for name, loss in line["losses"].items()}
            continue
        for group in ("losses", "source_losses"):
            points |= {(f"{group}/{name}", step): loss for name, loss in line.pop(group).items()}
        points |= {(f"train/{key}", step): value for key, value in line.items()}
    return {point: value for point, value in points.items() if value is not None}


def test_after_a_stop_each_number_is_there_once(config: dict[str, Any], tmp_path: Path) -> None:
    """A run of four steps that lost its last checkpoint does the last two again, and goes on."""
    train(TrainConfig.model_validate(config))
    output = tmp_path / "run"
    before, _ = read_events(output)
    assert before == pytest.approx(read_metrics(output), rel=1e-6)
    shutil.rmtree(output / "model")
    shutil.rmtree(output / "checkpoints" / "step-00000004")
    train(TrainConfig.model_validate({**config, "steps": 6}), "resume")
    after, events = read_events(output)
    assert after == pytest.approx(read_metrics(output), rel=1e-6)
    kept = {point for point, value in after.items() if before.get(point) == value}
    assert {step for tag, step in kept if tag == "train/loss"} >= {1, 2}
    assert {step for tag, step in after if tag == "validation/one"} == {0, 2, 4, 6}
    assert len(list((output / "tensorboard").iterdir())) == 2
    assert "packs_per_step: 3" in str(events.Tensors("config/text_summary")[-1].tensor_proto.string_val)


def test_what_is_no_number_is_left_out() -> None:
    values = {"loss": math.nan, "lr": 0.0, "mfu": None, "source_losses": {"a: b.jsonl": 1.5, "c": math.inf, "d": None}}
    assert list(list_scalars(values)) == [("train/lr", 0.0), ("source_losses/a: b.jsonl", 1.5)]


def test_what_is_not_installed_is_told_first(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ConfigError, match=r"pip install 'packline\[tensorboard\]'"):
        train(TrainConfig.model_validate(config))
    assert not (tmp_path / "run").exists()
