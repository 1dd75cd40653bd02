"""A config says what is wrong with it, and the command line answers quickly and without a traceback."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.errors import ConfigError
from schemas.settings import load_settings
from train.architecture import PRESETS
from train.config import TrainConfig

MINIMAL = """
output: out
datasets: [{path: data}]
model: tiny
packs_per_step: 4
steps: 10
"""


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(MINIMAL)
    return path


def test_defaults_and_overrides(config_file: Path) -> None:
    config = load_settings(TrainConfig, config_file, ["learning_rate=1e-3", "datasets.0.path=elsewhere"])
    assert config.model == PRESETS["tiny"]
    assert config.learning_rate == 1e-3
    assert config.datasets[0].path == "elsewhere"
    assert config.packs_per_microbatch == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model=huge", "the presets are tiny, small, and a model's folder is given as {path: FOLDER}"),
        ("model={pth: folder}", "unknown key 'model.dimensions.pth'; did you mean 'path'"),
        ("model={path: folder, weights: none}", "'model.folder.weights'"),
        ("epochs=2", "either `steps` or `epochs`"),
        ("datasets=[{path: a, weight: 1}, {path: b}]", "1 of 2 data sets have a weight"),
        ("datasets=[{path: a, weight: .inf}]", "finite"),
        ("validation={every: 10, datasets: [{path: a, weight: 1}]}", "remove `weight`"),
        ("datasets=[]", "at least 1 item"),
        ("schedule=wsd", "wsd needs them"),
        ("decay_steps=5", "schedule constant with decay_steps 5"),
        ("final_learning_rate=1", "is above learning_rate"),
        ("learning_rate=.inf", "finite"),
        ("stepz=1", "did you mean 'steps'"),
        ("packs_per_step=0", "greater than 0"),
        ("loss_policy=mine", "unknown loss policy"),
        (
            "model={hidden_size: 60, intermediate_size: 8, num_hidden_layers: 1, num_attention_heads: 8, "
            "num_key_value_heads: 2}",
            "make it a multiple of 16",
        ),
        (
            "model={hidden_size: 64, intermediate_size: 8, num_hidden_layers: 1, num_attention_heads: 4, "
            "num_key_value_heads: 3}",
            "no multiple of num_key_value_heads 3",
        ),
    ],
)
def test_what_is_wrong_is_said(config_file: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_settings(TrainConfig, config_file, [override])


def test_help_needs_no_torch(launch: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = launch("python", "-c", "import sys, train.__main__, train.config; sys.exit('torch' in sys.modules)")
    assert done.returncode == 0, done.stderr


def test_a_missing_data_set_is_a_line_and_exit_code_2(
    config_file: Path, launch: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = launch("packline-train", config_file, "--set", "datasets.0.path=nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert "nowhere/manifest.json does not exist" in done.stderr
    assert "Traceback" not in done.stderr


def test_epochs_are_refused_with_weights(config_file: Path) -> None:
    weighted = ["steps=null", "epochs=2", "datasets=[{path: a, weight: 0.5}, {path: b, weight: 0.5}]"]
    with pytest.raises(ConfigError, match="with weights the data sets end at different times"):
        load_settings(TrainConfig, config_file, weighted)
    assert load_settings(TrainConfig, config_file, [*weighted[:2], "datasets=[{path: a}, {path: b}]"]).epochs == 2
