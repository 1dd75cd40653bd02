"""Losses told apart add up to the whole, under names that tell the data sets apart."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from train.config import DatasetConfig, TrainConfig
from train.groups import group_losses, name_datasets
from train.loop import train
from train.metrics import LossSum


def stand(*paths: str) -> Any:
    return SimpleNamespace(manifest=SimpleNamespace(sources=[SimpleNamespace(path=path) for path in paths]))


@pytest.mark.parametrize(
    ("entries", "names"),
    [
        (["data/a", "data/b/"], ["a", "b"]),
        (["x/a", "y/a"], ["x/a", "y/a"]),
        (["x/a", "x/a (holdout)"], ["a", "a (holdout)"]),
        (["x/a", "y/a", "x/a (holdout)"], ["x/a", "y/a", "x/a (holdout)"]),
        (["a", "a"], ["a #0", "a #1"]),
    ],
)
def test_names(entries: list[str], names: list[str]) -> None:
    configs = [DatasetConfig(path=entry.removesuffix(" (holdout)"), holdout="holdout" in entry) for entry in entries]
    assert name_datasets(configs) == names


def test_losses_of_sources_add_up_to_those_of_their_data_set() -> None:
    configs = [DatasetConfig(path="a"), DatasetConfig(path="b")]
    groups = group_losses(configs, [stand("x", "y"), stand("x")], by_source=True)
    sums, weights = np.array([1.0, 2.0, 5.0]), np.array([10.0, 0.0, 4.0])
    assert groups.firsts == [0, 2]
    assert groups.by_dataset(sums, weights) == {"a": LossSum(3.0, 10.0), "b": LossSum(5.0, 4.0)}
    assert groups.each(sums, weights) == {"a: x": LossSum(1.0, 10.0), "b: x": LossSum(5.0, 4.0)}
    twice = group_losses(configs[:1], [stand("x", "x")], by_source=True)
    assert twice.each(np.array([1.0, 2.0]), np.array([3.0, 4.0])) == {"a: x": LossSum(3.0, 7.0)}
    assert group_losses(configs, [stand("x", "y"), stand("x")], by_source=False).each(sums[:2], weights[:2]) == {}


def test_a_run_tells_the_losses_of_its_data_sets(
    tmp_path: Path, build_dataset: Callable[..., str], unequal_packs: Sequence[Any]
) -> None:
    """Two epochs of two data sets of five packs in steps of three: the last step is short, each pack is seen twice."""
    config = {
        "output": str(tmp_path / "run"),
        "datasets": [
            {"path": build_dataset(tmp_path / "one", unequal_packs)},
            {"path": build_dataset(tmp_path / "two", unequal_packs), "loss_policy": "all"},
        ],
        "model": "tiny",
        "packs_per_step": 3,
        "epochs": 2,
        "dtype": "float64",
    }
    train(TrainConfig.model_validate(config))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6, 7]
    assert sum(line["tokens"] for line in lines) == 4 * 68
    documents = sum(map(len, unequal_packs))
    assert sum(line["trained_tokens"] for line in lines) == 2 * 20 + 2 * (68 - documents)
    for line in lines:
        losses = [loss for loss in line["losses"].values() if loss is not None]
        assert min(losses) - 1e-9 <= line["loss"] <= max(losses) + 1e-9
    assert all(set(line["losses"]) == {"one", "two"} for line in lines)
