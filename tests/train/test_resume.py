"""A run that was stopped goes on as if it had not been: the same bits on as many ranks, the same packs on others."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import train.checkpoint
from schemas.errors import ConfigError
from train import loop as train_loop
from train.checkpoint import list_checkpoints
from train.config import TrainConfig

EXACT = ("loss", "grad_norm", "lr", "trained_tokens", "tokens", "losses")


@pytest.fixture
def config(tmp_path: Path, build_weighted: Callable[[Path], list[dict[str, Any]]]) -> dict[str, Any]:
    """Two data sets with weights, warm-up and decay: all that a resumed run must find again."""
    datasets = build_weighted(tmp_path)
    return {
        "output": str(tmp_path / "whole"),
        "datasets": datasets,
        "model": "tiny",
        "packs_per_step": 3,
        "packs_per_microbatch": 2,
        "steps": 20,
        "learning_rate": 0.01,
        "warmup_steps": 3,
        "schedule": "cosine",
        "checkpoints": {"every": 10},
    }


def run(config: dict[str, Any], mode: Any = "start") -> None:
    train_loop.train(TrainConfig.model_validate(config), mode)


def steps_of(output: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == "step"]


def weights_of(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = load_file(output / "model" / "model.safetensors")
    return found


def stop_after_ten(whole: Path, output: Path) -> None:
    """The folder of a run that died at step 17, and was writing a checkpoint then."""
    shutil.copytree(whole, output)
    shutil.rmtree(output / "checkpoints" / "step-00000020")
    shutil.rmtree(output / "model")
    (output / "checkpoints" / ".step-00000017.tmp").mkdir()
    lines = (output / "metrics.jsonl").read_text().splitlines(keepends=True)
    (output / "metrics.jsonl").write_text("".join(lines[:17]))


def test_ten_and_ten_steps_are_twenty_bit_for_bit(config: dict[str, Any], tmp_path: Path) -> None:
    run(config)
    stop_after_ten(tmp_path / "whole", tmp_path / "half")
    run({**config, "output": str(tmp_path / "half")}, "resume")
    whole, half = steps_of(tmp_path / "whole"), steps_of(tmp_path / "half")
    assert [line["step"] for line in half] == [line["step"] for line in whole]
    assert len(whole) >= 15
    assert [[line[key] for key in EXACT] for line in half] == [[line[key] for key in EXACT] for line in whole]
    expected, found = weights_of(tmp_path / "whole"), weights_of(tmp_path / "half")
    assert all(np.array_equal(found[name], tensor) for name, tensor in expected.items())
    kept = sorted(path.name for path in (tmp_path / "half" / "checkpoints").iterdir())
    assert kept == ["step-00000010", "step-00000020"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "of other data"),
        ({"packs_per_step": 4}, "another packs_per_step"),
        ({"loss_policy": "all"}, "another loss"),
        ({"loss_normalization": "documents"}, "another loss"),
        ({"steps": 1}, "after step 2, past the end that steps 1 asks for"),
        ({"model": "small"}, "another model"),
        ({"master_dtype": "bfloat16"}, "another master_dtype"),
    ],
)
def test_what_is_not_the_same_run_is_refused(
    change: dict[str, Any], message: str, config: dict[str, Any], tmp_path: Path
) -> None:
    short = {**config, "steps": 2}
    run(short)
    with pytest.raises(ConfigError, match=message):
        run({**short, **change}, "resume")
    with pytest.raises(ConfigError, match="already holds metrics"):
        run(short)


def test_a_resume_without_a_checkpoint_starts(
    config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = {**config, "steps": 2, "checkpoints": {}}
    with pytest.raises(ConfigError, match="holds no complete checkpoint"):
        run(short, "export")
    run(short, "resume")
    assert (tmp_path / "whole" / "model" / "config.json").exists()
    run(short, "resume")
    assert "this run has ended: its model is in" in capsys.readouterr().out


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal as it would come before this step (0 is the first)."""
    counted = train_loop.count_step
    calls = iter(range(1000))

    def count(microbatches: Any, stop: bool, world: Any) -> Any:
        return counted(microbatches, stop or next(calls) == step, world)

    monkeypatch.setattr(train_loop, "count_step", count)


VARIANTS: dict[str, dict[str, Any]] = {
    "wsd, validation": {"schedule": "wsd", "decay_steps": 5, "validation": {"every": 2}},
    "bfloat16 masters": {"dtype": "bfloat16", "master_dtype": "bfloat16", "export_dtype": "float32"},
    "documents, float64": {"loss_normalization": "documents", "dtype": "float64"},
    "checkpointing, few lines": {"activation_checkpointing": "full", "log_every": 4},
    "windows of shards": {"shuffle_shards": 1},
    "checkpoints in the background": {"checkpoints": {"every": 2, "background": True}},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_stop_anywhere_changes_nothing(
    variant: str, config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also before the first step, when AdamW has no history yet, and where the first step trains nothing."""
    config = {**config, "steps": 10, "checkpoints": {}, **VARIANTS[variant]}
    if "validation" in config:
        config["validation"] = {**config["validation"], "datasets": [{"path": config["datasets"][0]["path"]}]}
    run(config)
    expected = weights_of(tmp_path / "whole")
    for step in (0, 1, 7):
        output = tmp_path / f"stopped before {step}"
        stopped = {**config, "output": str(output)}
        with monkeypatch.context() as context:
            stop_at(step, context)
            run(stopped)
        assert not (output / "model").exists()
        run(stopped, "resume")
        found = weights_of(output)
        assert all(np.array_equal(found[name], tensor) for name, tensor in expected.items()), step
        for key in ("trained_tokens", "tokens"):
            whole, half = (sum(line[key] for line in steps_of(folder)) for folder in (tmp_path / "whole", output))
            assert whole == half > 0, step


def test_saving_often_changes_nothing(config: dict[str, Any], tmp_path: Path) -> None:
    """Also where the first steps are skipped, for want of a trained token."""
    config = {**config, "datasets": config["datasets"][:1], "packs_per_step": 1, "steps": 8, "seed": 1}
    config["datasets"] = [{"path": config["datasets"][0]["path"]}]
    run({**config, "checkpoints": {}})
    run({**config, "output": str(tmp_path / "often"), "checkpoints": {"every": 1}})
    expected, found = weights_of(tmp_path / "whole"), weights_of(tmp_path / "often")
    assert all(np.array_equal(found[name], tensor) for name, tensor in expected.items())


def test_more_epochs_go_on_after_a_short_step(config: dict[str, Any], tmp_path: Path) -> None:
    """Five packs in steps of three: the first epoch ends on a step of two, and no pack is lost."""
    path = config["datasets"][0]["path"]
    config = {**config, "datasets": [{"path": path}], "steps": None, "epochs": 1}
    run(config)
    run({**config, "epochs": 2}, "resume")
    state = json.loads((tmp_path / "whole" / "checkpoints" / "step-00000004" / "run.json").read_text())
    assert state["taken"] == [10]
    assert sum(line["tokens"] for line in steps_of(tmp_path / "whole")) == 2 * 68


def test_weight_decay_and_betas_are_those_of_the_config(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run({**config, "steps": 2, "schedule": "constant"})
    seen = []
    update = train_loop.update
    monkeypatch.setattr(
        train_loop, "update", lambda optimizer, rate: (seen.append(optimizer.param_groups[0]), update(optimizer, rate))
    )
    run({**config, "steps": 3, "schedule": "constant", "weight_decay": 0.5, "betas": [0.8, 0.9]}, "resume")
    assert [(group["weight_decay"], tuple(group["betas"]), group["lr"]) for group in seen] == [(0.5, (0.8, 0.9), 0.01)]


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("crash", ["save", "_sync", "_check_all_wrote", "_remove"])
def test_a_crash_while_saving_leaves_the_checkpoints_before(
    crash: str, background: bool, config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {**config, "steps": 4, "checkpoints": {"every": 1, "keep": 1, "background": background}}
    run({**config, "steps": 2})
    shutil.rmtree(tmp_path / "whole" / "model")
    with monkeypatch.context() as context:
        context.setattr(train.checkpoint, crash, lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(config, "resume")
        torch.distributed.destroy_process_group()
    complete = [path.name for path in list_checkpoints(tmp_path / "whole")]
    assert complete in (["step-00000002"], ["step-00000002", "step-00000003"])
    run(config, "resume")
    assert [path.name for path in list_checkpoints(tmp_path / "whole")] == ["step-00000004"]


def test_a_run_that_was_stopped_once_has_its_end_as_the_newest_checkpoint(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So --export gives the end, and another --resume has nothing to do. What changed is told since the last start."""
    config = {**config, "steps": 6, "checkpoints": {}, "schedule": "constant"}
    with monkeypatch.context() as context:
        stop_at(3, context)
        run(config)
    run({**config, "learning_rate": 0.02}, "resume")
    assert "changed since then: learning_rate: 0.01 -> 0.02" in capsys.readouterr().out
    assert [path.name for path in list_checkpoints(tmp_path / "whole")][-1] == "step-00000006"
    weights = weights_of(tmp_path / "whole")
    for mode in ("export", "resume"):
        run({**config, "learning_rate": 0.02}, mode)
        assert all(np.array_equal(weights_of(tmp_path / "whole")[name], tensor) for name, tensor in weights.items())
    assert "changed since then" not in capsys.readouterr().out


def test_a_validation_that_was_broken_off_is_made_up(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validation = {"every": 2, "datasets": [{"path": config["datasets"][0]["path"]}]}
    config = {**config, "steps": 4, "checkpoints": {"every": 2}, "validation": validation}
    run(config)
    broken = {**config, "output": str(tmp_path / "broken")}
    validate = train_loop.validate
    calls = iter(range(10))
    with monkeypatch.context() as context:
        context.setattr(train_loop, "validate", lambda *given: 1 / 0 if next(calls) == 1 else validate(*given))
        with pytest.raises(ZeroDivisionError):
            run(broken)
        torch.distributed.destroy_process_group()
    run(broken, "resume")
    whole, found = (
        list(map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines()))
        for name in ("whole", "broken")
    )
    for event in ("step", "validation"):
        assert [line["step"] for line in found if line["event"] == event] == [
            line["step"] for line in whole if line["event"] == event
        ]
    assert [line["losses"] for line in found] == [line["losses"] for line in whole]


def test_ranks_that_write_elsewhere_are_noticed(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_in_part(tensors: Any, checkpoint_id: Path, process_group: Any) -> None:
        save(tensors, checkpoint_id=checkpoint_id, process_group=process_group)
        next(checkpoint_id.glob("*.distcp")).unlink()

    save = train.checkpoint.save
    monkeypatch.setattr(train.checkpoint, "save", save_in_part)
    with pytest.raises(ConfigError, match="a file system that all nodes share"):
        run({**config, "steps": 1, "checkpoints": {"every": 1}})
    torch.distributed.destroy_process_group()
    assert list_checkpoints(tmp_path / "whole") == []


def test_an_export_leaves_the_log_alone(config: dict[str, Any], tmp_path: Path) -> None:
    run({**config, "steps": 4, "checkpoints": {"every": 2}})
    log, weights = (tmp_path / "whole" / "metrics.jsonl").read_bytes(), weights_of(tmp_path / "whole")
    shutil.rmtree(tmp_path / "whole" / "model")
    run({**config, "steps": 4}, "export")
    assert (tmp_path / "whole" / "metrics.jsonl").read_bytes() == log
    assert all(np.array_equal(weights_of(tmp_path / "whole")[name], tensor) for name, tensor in weights.items())


def test_only_the_newest_checkpoints_stay(config: dict[str, Any], tmp_path: Path) -> None:
    run({**config, "steps": 5, "checkpoints": {"every": 2, "keep": 2}})
    kept = sorted(path.name for path in (tmp_path / "whole" / "checkpoints").iterdir())
    assert kept == ["step-00000004", "step-00000005"]
