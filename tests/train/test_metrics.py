"""metrics.jsonl: sums over intervals, strict JSON, and after a resume the file of one run."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from train.metrics import (
    METRICS,
    LoggedStep,
    LossSum,
    MetricsLog,
    StepMetrics,
    Totals,
    mean_losses,
    peak_memory,
    summarise,
)
from train.metrics_file import drop_lines_after, has_validation

STEP = StepMetrics(
    step=1,
    loss=2.0,
    trained_tokens=30,
    tokens=90,
    slots=100,
    grad_norm=1.5,
    lr=1e-3,
    seconds=2.0,
    data_wait=0.5,
    flops=1000,
    losses={"chat": LossSum(60.0, 30.0)},
)


@dataclass
class Recorder:
    """A display and a clock."""

    now: float = 100.0
    lines: list[LoggedStep] = field(default_factory=list)
    others: list[Any] = field(default_factory=list)

    def step(self, line: LoggedStep) -> None:
        self.lines.append(line)

    def validation(self, step: int, losses: Any) -> None:
        self.others.append((step, losses))

    def note(self, text: str) -> None:
        self.others.append(text)

    def end(self, totals: Totals, elapsed: float) -> None:
        self.others.append((totals, elapsed))


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


Open = Callable[..., MetricsLog]


@pytest.fixture
def open_log(tmp_path: Path, recorder: Recorder) -> Open:
    def make(**changes: Any) -> MetricsLog:
        settings: dict[str, Any] = {"log_every": 1, "steps": 20, "peak_flops": 5000.0, "memory": lambda: 123, **changes}
        return MetricsLog(tmp_path, display=recorder, clock=lambda: recorder.now, **settings)

    return make


def run(log: MetricsLog, recorder: Recorder, steps: Sequence[int], pause: float = 0.0, **changes: Any) -> None:
    for step in steps:
        recorder.now += STEP.seconds + pause
        log.add(replace(STEP, step=step, **changes))


def read(folder: Path) -> list[dict[str, Any]]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    lines = (folder / METRICS).read_text("utf-8").splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def test_a_line_has_the_keys_of_a_logged_step(open_log: Open, recorder: Recorder, tmp_path: Path) -> None:
    run(open_log(), recorder, [1])
    assert read(tmp_path) == [
        {
            "event": "step",
            "step": 1,
            "loss": 2.0,
            "trained_tokens": 30,
            "tokens": 90,
            "trained_tokens_per_second": 15.0,
            "tokens_per_second": 45.0,
            "mfu": 0.1,
            "fill": 0.9,
            "grad_norm": 1.5,
            "lr": 1e-3,
            "memory": 123,
            "data_wait": 0.25,
            "elapsed": 2.0,
            "eta": None,
            "losses": {"chat": 2.0},
            "source_losses": {},
        }
    ]
    assert ["event", *(key.name for key in fields(LoggedStep))] == list(read(tmp_path)[0])


@pytest.mark.parametrize(
    ("log_every", "done", "logged"),
    [
        (1, range(1, 8), [1, 2, 3, 4, 5, 6, 7]),
        (5, range(1, 21), [1, 5, 10, 15, 20]),
        (8, range(1, 21), [1, 8, 16, 20]),
        (5, [1, 2, 4, 6, 7, 13, 14, 15], [1, 6, 13, 15]),  # 3, 5 and 8 to 12 were skipped
        (100, range(1, 21), [1, 20]),
    ],
)
def test_the_first_each_so_many_and_the_last_are_logged(
    log_every: int, done: Sequence[int], logged: list[int], open_log: Open, recorder: Recorder, tmp_path: Path
) -> None:
    run(open_log(log_every=log_every), recorder, done)
    assert [line["step"] for line in read(tmp_path)] == [line.step for line in recorder.lines] == logged
    counted = [step for step in done if step <= logged[-1]]
    assert sum(line["tokens"] for line in read(tmp_path)) == STEP.tokens * len(counted)


counts = st.integers(0, 1000)
loss_sums = st.builds(LossSum, st.floats(0, 100), st.sampled_from([0.0, 0.5, 3.0]))
measured = st.builds(
    StepMetrics,
    step=st.integers(1, 9),
    loss=st.floats(0, 10),
    trained_tokens=counts,
    tokens=counts,
    slots=st.integers(1000, 2000),
    grad_norm=st.floats(0, 10),
    lr=st.floats(0, 1),
    seconds=st.floats(0.01, 10),
    data_wait=st.floats(0, 0.01),
    flops=counts,
    losses=st.dictionaries(st.sampled_from("abc"), loss_sums),
)


@given(st.lists(measured, min_size=1, max_size=5))
def test_rates_are_over_the_whole_interval(interval: list[StepMetrics]) -> None:
    line = summarise(interval, 100.0, memory=0, elapsed=0.0, eta=0.0)
    seconds = math.fsum(step.seconds for step in interval)
    tokens = sum(step.tokens for step in interval)
    assert line.tokens_per_second == pytest.approx(tokens / seconds, abs=0.06)
    assert line.trained_tokens_per_second == pytest.approx(sum(s.trained_tokens for s in interval) / seconds, abs=0.06)
    assert line.fill == pytest.approx(tokens / sum(step.slots for step in interval), abs=1e-6)
    assert line.mfu == pytest.approx(sum(step.flops for step in interval) / seconds / 100, abs=1e-6)
    assert line.data_wait == pytest.approx(math.fsum(step.data_wait for step in interval) / seconds, abs=1e-6)
    last = interval[-1]
    assert (line.step, line.loss, line.grad_norm, line.lr) == (last.step, last.loss, last.grad_norm, last.lr)


@given(st.lists(st.dictionaries(st.sampled_from("abc"), loss_sums), max_size=5))
def test_a_loss_is_the_mean_over_the_weight_of_all_steps(losses: list[dict[str, LossSum]]) -> None:
    means = mean_losses(losses)
    assert set(means) == {name for step in losses for name in step}
    for name, found in means.items():
        parts = [step[name] for step in losses if name in step]
        weight = sum(part.weight for part in parts)
        expected = sum(part.loss for part in parts) / weight if weight else None
        assert found == (expected if expected is None else pytest.approx(expected))


def test_the_mean_is_not_that_of_the_steps_means() -> None:
    """Guards the law above."""
    assert mean_losses([{"a": LossSum(1.0, 1.0)}, {"a": LossSum(12.0, 3.0)}]) == {"a": 13 / 4}


def test_without_a_known_peak_there_is_no_mfu(open_log: Open, recorder: Recorder, tmp_path: Path) -> None:
    run(open_log(peak_flops=None), recorder, [1])
    assert read(tmp_path)[0]["mfu"] is None


def test_what_is_not_finite_is_null(open_log: Open, recorder: Recorder, tmp_path: Path) -> None:
    log = open_log()
    run(log, recorder, [1], loss=math.nan, grad_norm=math.inf, losses={"a": LossSum(math.nan, 1.0)})
    log.validation(1, {"b": LossSum(-math.inf, 1.0), "c": LossSum(0.0, 0.0)})
    step, validation = read(tmp_path)
    assert (step["loss"], step["grad_norm"], step["losses"]) == (None, None, {"a": None})
    assert validation["losses"] == {"b": None, "c": None}
    assert recorder.lines[0].loss is not None  # one sees which of the two it is
    assert math.isnan(recorder.lines[0].loss)


def test_validation_and_notes(open_log: Open, recorder: Recorder, tmp_path: Path) -> None:
    log = open_log()
    recorder.now += 3
    log.validation(0, {"chat": LossSum(6.0, 4.0)})
    log.note("a word")
    assert read(tmp_path) == [{"event": "validation", "step": 0, "elapsed": 3.0, "losses": {"chat": 1.5}}]
    assert recorder.others == [(0, {"chat": 1.5}), "a word"]


def test_the_time_left_falls_and_ends_at_nothing(open_log: Open, recorder: Recorder) -> None:
    """At a steady pace, with a first step that takes long, and pauses that count."""
    log = open_log()
    recorder.now += 50
    run(log, recorder, range(1, 21), pause=1.0)
    left = [line.eta for line in recorder.lines[1:]]
    assert left == pytest.approx([3.0 * (20 - step) for step in range(2, 21)])
    assert recorder.lines[0].eta is None
    assert [line.elapsed for line in recorder.lines] == pytest.approx([53 + 3.0 * step for step in range(20)])


def test_after_a_resume_the_file_is_that_of_one_run(open_log: Open, recorder: Recorder, tmp_path: Path) -> None:
    """Killed at step 9, of which the line is cut off; the newest checkpoint is of step 6."""
    log = open_log(log_every=2)
    log.validation(0, STEP.losses)
    run(log, recorder, range(1, 7))
    log.validation(6, STEP.losses)
    kept = read(tmp_path)
    run(log, recorder, range(7, 9))
    log.validation(8, STEP.losses)
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"event": "step", "step": 1')
    recorder.now = 7000.0
    resumed = open_log(log_every=2, start_step=6)
    assert read(tmp_path) == kept
    run(resumed, recorder, range(7, 21))
    steps = [line for line in read(tmp_path) if line["event"] == "step"]
    assert [line["step"] for line in steps] == [1, *range(2, 21, 2)]
    assert sum(line["tokens"] for line in steps) == 20 * STEP.tokens
    assert [line["elapsed"] for line in steps] == [2.0 * line["step"] for line in steps]
    assert not [path for path in tmp_path.iterdir() if path.name != METRICS]


def test_a_resume_from_a_step_between_two_lines(open_log: Open, recorder: Recorder, tmp_path: Path) -> None:
    run(open_log(log_every=5), recorder, range(1, 14))
    run(open_log(log_every=5, start_step=13), recorder, range(14, 21))
    assert [line["step"] for line in read(tmp_path)] == [1, 5, 10, 15, 20]


def test_a_run_from_the_start_leaves_nothing_of_another(open_log: Open, recorder: Recorder, tmp_path: Path) -> None:
    log = open_log()
    log.validation(0, STEP.losses)
    run(log, recorder, range(1, 4))
    assert len(read(tmp_path)) == 4
    open_log()
    assert read(tmp_path) == []


def test_the_end_tells_of_this_start(open_log: Open, recorder: Recorder) -> None:
    """Whether a step is logged or not."""
    run(open_log(log_every=3), recorder, range(1, 6))
    resumed = open_log(log_every=3, start_step=5)
    run(resumed, recorder, range(6, 10), pause=1.0)
    resumed.end()
    assert recorder.others == [(Totals(steps=4, tokens=360, trained_tokens=120, seconds=8.0), 12.0)]


written = st.tuples(st.integers(0, 6), st.sampled_from(["step", "validation"]))
torn = st.sampled_from(["", '{"event": "step", "st', '{"event": "step", "step": 1, "elapsed": 3}', "\0\0\0\n"])


@given(lines=st.lists(written, max_size=12).map(sorted), rest=torn, step=st.integers(0, 7))
def test_what_is_kept_is_what_a_reader_of_all_lines_keeps(
    lines: list[tuple[int, str]], rest: str, step: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "lines.jsonl"
    written = [{"event": event, "step": own, "elapsed": float(own)} for own, event in lines]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in written) + rest)
    kept = [line for line in written if step and line["step"] <= step]
    assert drop_lines_after(path, step) == (kept[-1]["elapsed"] if kept else 0.0)
    assert [json.loads(line) for line in path.read_text().splitlines()] == kept
    assert has_validation(path, step) == any((line["step"], line["event"]) == (step, "validation") for line in kept)


def test_memory_is_that_of_this_process() -> None:
    before = peak_memory(torch.device("cpu"))
    assert before > 50 << 20
    block = bytearray(before + (64 << 20))
    block[:: 1 << 12] = bytes([1]) * len(block[:: 1 << 12])
    assert before + (64 << 20) <= peak_memory(torch.device("cpu")) < 3 * before + (128 << 20)


def test_each_key_is_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text("utf-8")
    assert not [key.name for key in fields(LoggedStep) if f"`{key.name}`" not in text]
