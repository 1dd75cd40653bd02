"""The trace has the steps of the window and no others, and what it is asked of a run changes nothing else."""

import gzip
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import record_function

from train import loop as train_loop
from train.config import ProfileConfig, TrainConfig
from train.parallel import World
from train.profiler import open_window

RANGES = {"data wait", "count tokens", "forward", "backward", "sum losses", "clip gradients", "optimizer"}


def read_ranges(trace: Path) -> Counter[str]:
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    return Counter(event["name"] for event in events if event.get("cat") == "user_annotation")


def profiled_steps(ranges: Counter[str]) -> list[int]:
    names = (name.partition("ProfilerStep#") for name in ranges.elements())
    return sorted(int(number) for _, mark, number in names if mark)


class Trial:
    """Steps without a model, in a window: the world is one rank on a CPU."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.told = folder, list[str]()
        self.world = World(0, 1, torch.device("cpu"))

    def run(
        self, start: int, steps: int, left: range, stops: Sequence[int] = (), last: int = 0, error: int = 0
    ) -> list[int]:
        """stops: where new generations are looked for; last: before which a signal stops the run; error: in which one
        is raised."""
        config, done = ProfileConfig(start=start, steps=steps), []
        with open_window(config, left, self.folder, self.world, self.told.append) as window:
            for first, end in zip((left.start, *stops), (*stops, left.stop), strict=True):
                for step in window.watch(iter(range(first, end)), first):
                    if step == last:
                        return done
                    with record_function("forward"):
                        done.append(step // (step != error))
        return done

    def traces(self) -> dict[str, list[int]]:
        return {path.name: profiled_steps(read_ranges(path)) for path in (self.folder / "profile").glob("*.json.gz")}


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return Trial(tmp_path)


@pytest.mark.parametrize(
    ("start", "steps", "left", "stops", "recorded"),
    [
        (1, 1, range(1, 5), (), [1]),
        (2, 2, range(1, 6), (3,), [2, 3]),
        (2, 2, range(101, 110), (), [102, 103]),
        (3, 9, range(1, 5), (4, 4), [3, 4]),
    ],
)
def test_the_trace_has_the_steps_of_the_window(
    start: int, steps: int, left: range, stops: Sequence[int], recorded: list[int], trial: Trial
) -> None:
    """Counted from this start; new generations may be looked for within it, and the run may end within it."""
    assert trial.run(start, steps, left, stops) == list(left)
    stem = f"rank-0-steps-{recorded[0]}-{recorded[-1]}"
    assert trial.traces() == {f"{stem}.json.gz": recorded}
    assert read_ranges(trial.folder / "profile" / f"{stem}.json.gz")["forward"] == len(recorded)
    assert sorted(path.name for path in (trial.folder / "profile").iterdir()) == [f"{stem}.json.gz", f"{stem}.txt"]
    assert "forward" in (trial.folder / "profile" / f"{stem}.txt").read_text()
    assert trial.told == [f"profile of steps {recorded[0]} to {recorded[-1]} in {trial.folder}/profile/{stem}.json.gz"]


def test_a_window_past_the_end_is_told(trial: Trial) -> None:
    trial.run(4, 2, range(8, 11))
    assert trial.told == ["nothing will be profiled: this start has 3 steps to do, and profile starts at 4"]
    assert not (trial.folder / "profile").exists()


def test_a_stop_within_the_window_leaves_the_steps_that_were_done(trial: Trial) -> None:
    """Also where the first of them was not, or was only prepared for; the next window is not in the way of that."""
    for last in (1, 2):
        trial.run(2, 3, range(1, 9), last=last)
        assert "stops before the first of its steps is done" in trial.told.pop()
        assert not (trial.folder / "profile").exists()
    trial.run(2, 3, range(1, 9), last=4)
    assert trial.traces() == {"rank-0-steps-2-3.json.gz": [2, 3, 4]}  # the last is the one that was broken off


def test_after_an_error_there_is_none(trial: Trial) -> None:
    with pytest.raises(ZeroDivisionError):
        trial.run(1, 3, range(1, 9), error=2)
    assert trial.told == ["the profile is not written: the run stops with an error"]
    assert not (trial.folder / "profile").exists()
    assert trial.run(1, 1, range(1, 3)) == [1, 2]


def test_a_profile_that_cannot_be_written_stops_nothing(trial: Trial, capsys: pytest.CaptureFixture[str]) -> None:
    (trial.folder / "profile").write_text("a file")
    assert trial.run(1, 1, range(1, 4)) == [1, 2, 3]
    assert "rank 0: the profile cannot be written" in capsys.readouterr().err


def test_a_run_is_the_same_with_it(
    tmp_path: Path, build_dataset: Callable[..., str], unequal_packs: Sequence[Any]
) -> None:
    """Of four steps with five packs each, in three micro-batches."""
    config = {
        "datasets": [{"path": build_dataset(tmp_path / "data", unequal_packs)}],
        "model": "tiny",
        "packs_per_step": 5,
        "packs_per_microbatch": 2,
        "steps": 4,
    }
    for name, asked in (("without", None), ("with", {"start": 2, "steps": 2})):
        train_loop.train(TrainConfig.model_validate({**config, "output": str(tmp_path / name), "profile": asked}))
    metrics, others = (read_exact(tmp_path / name / "metrics.jsonl") for name in ("with", "without"))
    assert metrics == others
    assert len(metrics) == 4
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("with", "without")]
    assert weights[0] == weights[1]
    assert not (tmp_path / "without" / "profile").exists()
    ranges = read_ranges(tmp_path / "with" / "profile" / "rank-0-steps-2-3.json.gz")
    assert profiled_steps(ranges) == [2, 3]
    assert {name: ranges[name] for name in RANGES} == dict.fromkeys(RANGES, 2) | {"forward": 6, "backward": 6}


def read_exact(path: Path) -> list[tuple[Any, ...]]:
    lines = map(json.loads, path.read_text().splitlines())
    return [tuple(line[key] for key in ("step", "loss", "grad_norm", "lr", "tokens", "losses")) for line in lines]
