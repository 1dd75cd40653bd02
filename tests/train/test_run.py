"""Whole runs through torchrun and through python -m train."""

import dataclasses
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from schemas.errors import ConfigError, DatasetError
from schemas.settings import load_settings
from train import loop, parallel
from train.__main__ import main
from train.config import TrainConfig
from train.loop import train
from train.parallel import World

CONFIG = """
output: {output}
datasets: [{{path: {dataset}}}]
model: tiny
packs_per_step: 3
packs_per_microbatch: 2
steps: 5
learning_rate: 0.01
warmup_steps: 2
"""

Launch = Callable[..., subprocess.CompletedProcess[str]]
WriteConfig = Callable[[str], Path]
KEYS = ("step", "loss", "trained_tokens", "tokens", "grad_norm", "lr", "fill")


@pytest.fixture
def write_config(tmp_path: Path, build_dataset: Callable[..., str], unequal_packs: Sequence[Any]) -> WriteConfig:
    dataset = build_dataset(tmp_path / "data", unequal_packs)

    def write(name: str) -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(CONFIG.format(output=tmp_path / name, dataset=dataset))
        return path

    return write


@pytest.fixture
def hostile_folder(tmp_path: Path) -> Path:
    """A working folder with modules of the user's own under our names."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("train.py", "schemas.py", "pipeline.py"):
        (folder / name).write_text("raise SystemExit('the module of the working folder was imported')\n")
    return folder


def read_metrics(output: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == "step"]


@pytest.mark.slow
def test_two_ranks_train_as_one_does(
    write_config: WriteConfig, launch: Launch, tmp_path: Path, hostile_folder: Path
) -> None:
    """Both in a folder with a train.py, by the two ways that the command's help gives."""
    one = launch("python", "-m", "train", write_config("one"), cwd=hostile_folder, PYTHONSAFEPATH="1")
    torchrun = ("torchrun", "--standalone", "--nproc-per-node", 2, "--no-python")
    watched = ("--set", "tensorboard=true", "--set", "profile={start: 4, steps: 1}")
    two = launch(*torchrun, "packline-train", write_config("two"), *watched, cwd=hostile_folder)
    assert one.returncode == 0, one.stderr
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("step 5 ") == two.stdout.count("this start: ") == two.stdout.count("profile of ") == 1
    assert len(list((tmp_path / "two" / "tensorboard").iterdir())) == 1
    traces = sorted(path.name for path in (tmp_path / "two" / "profile").iterdir())
    assert traces == ["rank-0-steps-4-4.json.gz", "rank-0-steps-4-4.txt", "rank-1-steps-4-4.json.gz"]
    for alone, together in zip(read_metrics(tmp_path / "one"), read_metrics(tmp_path / "two"), strict=True):
        for key in KEYS:
            assert together[key] == pytest.approx(alone[key], rel=1e-4)
    assert_learned(read_metrics(tmp_path / "two"))
    assert_same_weights(tmp_path / "one" / "model", tmp_path / "two" / "model")


def assert_learned(metrics: list[dict[str, Any]]) -> None:
    assert [line["step"] for line in metrics] == [1, 2, 3, 4, 5]
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    assert len({line["trained_tokens"] for line in metrics}) > 1


def assert_same_weights(one: Path, two: Path) -> None:
    found, expected = load_file(two / "model.safetensors"), load_file(one / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(found[name].shape == tensor.shape for name, tensor in expected.items())
    assert max(abs(found[name] - tensor).max() for name, tensor in expected.items()) < 1e-4
    config = json.loads((two / "config.json").read_text())
    assert config["vocab_size"] == expected["model.embed_tokens.weight"].shape[0]
    assert not list(two.parent.glob(".*"))


def test_steps_without_a_trained_token_are_skipped_and_counted(
    write_config: WriteConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one pack a step an epoch of five has two such steps. Also: bfloat16, and no second run into one folder."""
    overrides = ("packs_per_step=1", "dtype=bfloat16", "steps=null", "epochs=1")
    config = load_settings(TrainConfig, write_config("skip"), overrides)
    train(config)
    assert "3 steps done, 2 skipped" in capsys.readouterr().out
    assert len(read_metrics(tmp_path / "skip")) == 3
    with pytest.raises(ConfigError, match="already holds metrics"):
        train(config)


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_all_ranks_and_names_the_pack(
    tmp_path: Path, build_dataset: Callable[..., str], unequal_packs: Sequence[Any], fork_ranks: Launch
) -> None:
    """A token that only the fifth pack has is not a number to the model, so one of two ranks meets it; what was before
    that step is saved."""
    poisoned = [
        [replace_ids(doc, 7 if number == 4 else 8) for doc in pack] for number, pack in enumerate(unequal_packs)
    ]
    config = {
        "output": str(tmp_path / "run"),
        "datasets": [{"path": build_dataset(tmp_path / "data", poisoned)}],
        "model": {"path": str(broken_model(tmp_path / "model"))},
        "packs_per_step": 5,
        "packs_per_microbatch": 2,
        "steps": 3,
        "loss_policy": "all",
    }
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    done = fork_ranks(2, "-m", "train", tmp_path / "config.yaml")
    assert done.returncode == 1
    facts = json.loads((tmp_path / "run" / "nonfinite.json").read_text())
    assert facts["step"] == 1
    assert [pack["pack"] for pack in facts["packs"] if not pack["finite"]] == [4]
    assert len(facts["packs"]) == 5
    for rank in (0, 1):
        assert f"rank {rank}: step 1: loss nan" in done.stderr
    assert f"packline inspect {tmp_path / 'data'} --pack 4`" in done.stderr
    assert (tmp_path / "run" / "checkpoints" / "step-00000000" / "run.json").exists()
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.slow
def test_a_damaged_shard_stops_all_ranks_before_it_is_trained_on(
    write_config: WriteConfig, tmp_path: Path, fork_ranks: Launch
) -> None:
    """One pack a step: one of two ranks never gets any, but checks them. What was done is saved, and goes on with the
    shard mended."""
    config, output = write_config("run"), tmp_path / "run"
    shard = tmp_path / "data" / "shards" / "00003.arrow"
    content = shard.read_bytes()
    train(load_settings(TrainConfig, config, ["packs_per_step=1", f"output={tmp_path / 'whole'}"]))
    whole = read_metrics(tmp_path / "whole")
    shard.write_bytes(content[:1000] + b"!" + content[1001:])
    done = fork_ranks(2, "-m", "train", config, "--set", "packs_per_step=1", "--set", "balance=false")
    assert done.returncode == 2
    for rank in (0, 1):
        assert f"rank {rank}: {shard}: shard is damaged" in done.stderr
    assert "Traceback" not in done.stderr
    assert 0 < len(read_metrics(output)) < len(whole)
    shard.write_bytes(content)
    train(load_settings(TrainConfig, config, ["packs_per_step=1"]), "resume")
    assert [line["loss"] for line in read_metrics(output)] == pytest.approx([line["loss"] for line in whole], rel=1e-4)


def test_a_damaged_validation_shard_stops_the_run(write_config: WriteConfig, tmp_path: Path) -> None:
    path = write_config("run")
    shutil.copytree(tmp_path / "data", tmp_path / "other")
    shard = tmp_path / "other" / "shards" / "00000.arrow"
    shard.write_bytes(b"!" + shard.read_bytes()[1:])
    overrides = [f"validation={{every: 1, datasets: [{{path: {tmp_path / 'other'}}}]}}"]
    with pytest.raises(DatasetError, match="is damaged"):
        train(load_settings(TrainConfig, path, overrides))
    torch.distributed.destroy_process_group()


def test_a_run_has_as_many_files_open_as_the_system_lets_it(
    tmp_path: Path, build_dataset: Callable[..., str], unequal_packs: Sequence[Any], write_config: WriteConfig
) -> None:
    """Each shard of the step has a pack."""
    path = build_dataset(tmp_path / "shards", unequal_packs[:1] * 80, packs_per_shard=1)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 40, limits[1]))
    try:
        train(load_settings(TrainConfig, write_config("run"), [f"datasets=[{{path: {path}}}]", "packs_per_step=80"]))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_an_error_that_nobody_expected_ends_the_process_at_once(
    write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The interpreter would wait for threads that fetch shards."""

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(loop, "train", fail)
    monkeypatch.setattr(parallel, "end_process", sys.exit)
    monkeypatch.setattr(sys, "argv", ["packline-train", str(write_config("run"))])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "RuntimeError: out of memory" in capsys.readouterr().err


class OfTwo:
    """The world as a rank sees it whose packs are fine; the other rank cannot read its own."""

    def __init__(self, world: World) -> None:
        self.rank, self.ranks, self.device = world.rank, 2, world.device

    def sum(self, values: Sequence[float]) -> list[float]:
        return [*values[:-1], 1.0]


@pytest.mark.parametrize("reader", ["count_step", "validate", "look_up"])
def test_a_rank_that_can_read_stops_with_one_that_cannot(
    reader: str, write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step, a validation, or the next generation, the second time that it is looked at. What was done is saved."""
    follow = f"datasets=[{{path: {tmp_path / 'data'}, generation: follow}}]"
    validation = f"validation={{every: 2, datasets: [{{path: {tmp_path / 'data'}}}]}}"
    config = load_settings(TrainConfig, write_config("run"), [follow, validation])
    read, calls = getattr(loop, reader), iter(range(2))
    with monkeypatch.context() as context:
        context.setattr(loop, reader, lambda *given: read(*given[:-1], OfTwo(given[-1]) if next(calls) else given[-1]))
        with pytest.raises(DatasetError, match="another rank cannot read its packs"):
            train(config)
        torch.distributed.destroy_process_group()
    assert 0 < len(read_metrics(tmp_path / "run")) < 5
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 1
    train(config, "resume")
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [1, 2, 3, 4, 5]


def replace_ids(doc: Any, token: int) -> Any:
    return dataclasses.replace(doc, ids=[token] * len(doc.ids))


def broken_model(folder: Path) -> Path:
    """A model to which token 7 is not a number."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=1, vocab_size=50))
    with torch.no_grad():
        model.model.embed_tokens.weight[7] = float("nan")
    model.save_pretrained(folder)
    return folder


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize("mode", ["none", "selective"])
def test_compiled_blocks_train_as_others_do(mode: str, write_config: WriteConfig, tmp_path: Path) -> None:
    overrides = ["steps=2", f"activation_checkpointing={mode}"]
    for name in ("eager", "compiled"):
        train(load_settings(TrainConfig, write_config(name), [*overrides, f"compile={name == 'compiled'}"]))
    eager, compiled = (read_metrics(tmp_path / name) for name in ("eager", "compiled"))
    for key in ("loss", "grad_norm"):
        assert [line[key] for line in compiled] == pytest.approx([line[key] for line in eager], rel=1e-5)
