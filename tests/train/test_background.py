"""A checkpoint that is written in the background has the tensors of its step, and what is wrong with it is raised."""

import json
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.staging import DefaultStager

import train.background
import train.checkpoint
from train import loop as train_loop
from train.background import BackgroundWriter
from train.checkpoint import CheckpointError, list_checkpoints
from train.config import TrainConfig

WORKER = Path(__file__).with_name("full_disk_worker.py")


@pytest.fixture
def config(tmp_path: Path, build_dataset: Callable[..., str], unequal_packs: Sequence[Any]) -> dict[str, Any]:
    return {
        "output": str(tmp_path / "run"),
        "datasets": [{"path": build_dataset(tmp_path / "data", unequal_packs, weights=False)}],
        "model": "tiny",
        "packs_per_step": 3,
        "steps": 5,
        "learning_rate": 0.01,
        "checkpoints": {"every": 1, "keep": 9, "background": True},
    }


def run(config: dict[str, Any], mode: Any = "start") -> None:
    train_loop.train(TrainConfig.model_validate(config), mode)


def parts_of(output: Path) -> dict[str, bytes]:
    """What the ranks wrote of each checkpoint, and where the run was then."""
    parts = {f"{path.parent.name}/{path.name}": path.read_bytes() for path in output.glob("checkpoints/*/*.distcp")}
    states = {path.parent.name: json.loads(path.read_bytes()) for path in output.glob("checkpoints/*/run.json")}
    return parts | {name: json.dumps({**state, "config": None}).encode() for name, state in states.items()}


def hold(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer of that step's checkpoint, until the weights of the next step are made."""
    save, update = train.checkpoint.save, train_loop.update
    steps, moved_on = iter(range(1, 1000)), threading.Event()

    def save_late(tensors: Any, checkpoint_id: Path, process_group: Any) -> None:
        if checkpoint_id.name == f".step-{step:08d}.tmp":
            assert moved_on.wait(60)
        save(tensors, checkpoint_id=checkpoint_id, process_group=process_group)

    def move_on(*given: Any) -> None:
        update(*given)
        if next(steps) > step:
            moved_on.set()

    monkeypatch.setattr(train.checkpoint, "save", save_late)
    monkeypatch.setattr(train_loop, "update", move_on)


@pytest.mark.parametrize("copied", [True, False])
def test_the_run_goes_on_and_the_checkpoint_does_not_move(
    copied: bool,
    config: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Bit by bit that of a run which stands still; and not so where nothing is copied, so that the test can tell. The
    checkpoint after it waits."""
    still = {**config, "output": str(tmp_path / "still"), "checkpoints": {"every": 1, "keep": 9}}
    run(still)
    expected = parts_of(tmp_path / "still")
    assert len(expected) == 10
    capsys.readouterr()
    hold(2, monkeypatch)
    if not copied:
        monkeypatch.setattr(DefaultStager, "stage", lambda self, tensors: tensors)
    run(config)
    found = parts_of(tmp_path / "run")
    assert found.keys() == expected.keys()
    moved = {name[:13] for name, part in found.items() if part != expected[name]}
    assert moved == set() if copied else "step-00000002" in moved
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("checkpoint in")]
    assert len(lines) == 5
    assert "step-00000002; the run waited" in lines[1]
    assert (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize("failing", [2, 5])
def test_a_full_disk_ends_the_run_and_it_goes_on_from_the_checkpoint_before(
    failing: int, config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the latest when the next one is due, and at the end before a model is exported."""
    run({**config, "output": str(tmp_path / "whole")})
    fill_disk(failing, monkeypatch)
    with pytest.raises(CheckpointError, match=f"checkpoint of step {failing} .* rank 0 OSError: .*No space left"):
        run(config)
    torch.distributed.destroy_process_group()
    monkeypatch.undo()
    complete = [path.name for path in list_checkpoints(tmp_path / "run")]
    assert complete == [f"step-{step:08d}" for step in range(1, failing)]
    assert not (tmp_path / "run" / "model").exists()
    run(config, "resume")
    found, expected = parts_of(tmp_path / "run"), parts_of(tmp_path / "whole")
    assert found == expected
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))


def fill_disk(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    write = FileSystemWriter.write_data

    def write_data(self: FileSystemWriter, *given: Any) -> Any:
        if f".step-{step:08d}.tmp" in str(self.path):
            raise OSError(28, "No space left on device")
        return write(self, *given)

    monkeypatch.setattr(FileSystemWriter, "write_data", write_data)


def test_an_error_of_the_run_leaves_what_is_in_flight_complete(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any error, of which the run knows nothing: the process may end right after it."""
    hold(2, monkeypatch)
    move_on, steps = train_loop.update, iter(range(1, 1000))
    monkeypatch.setattr(train_loop, "update", lambda *given: (move_on(*given), 1 / (3 - next(steps))))
    with pytest.raises(ZeroDivisionError):
        run(config)
    torch.distributed.destroy_process_group()
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["step-00000001", "step-00000002"]


def test_on_cuda_the_copy_is_pinned_and_the_thread_waits_for_no_stream_but_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By stand-ins: DCP synchronizes its thread with the thread's current stream, which must not be the run's."""
    device = torch.device("cuda", 3)
    seen: list[Any] = []
    monkeypatch.setattr(train.background, "DefaultStager", seen.append)
    monkeypatch.setattr(torch.cuda, "set_device", lambda given: seen.append((threading.get_ident(), given)))
    monkeypatch.setattr(torch.cuda, "Stream", lambda given: ("a new one", given))
    monkeypatch.setattr(torch.cuda, "set_stream", lambda given: seen.append((threading.get_ident(), given)))
    writer = BackgroundWriter(device)
    thread = writer._thread.submit(threading.get_ident).result()
    [options, *calls] = seen
    assert (options.use_pinned_memory, options.use_non_blocking_copy) == (True, True)
    assert (options.use_shared_memory, options.use_async_staging) == (False, False)
    assert calls == [(thread, device), (thread, ("a new one", device))]
    assert thread != threading.get_ident()
    writer._thread.shutdown()


@pytest.mark.slow
def test_a_disk_that_is_full_on_one_rank_ends_all(
    config: dict[str, Any], tmp_path: Path, fork_ranks: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({**config, "steps": 100_000}))
    done = fork_ranks(2, WORKER, path)
    assert done.returncode == 1
    for rank in (0, 1):
        assert f"rank {rank}: the checkpoint of step 2 could not be written: on rank 1 OSError" in done.stderr
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["step-00000001"]
