"""What one sees of a run: a line of text and a line of metrics.jsonl for each logged step, both by rank 0.

The loop measures each step (`StepMetrics`); what is logged (`LoggedStep`) covers the interval, that is, all steps since
the line before. Logged are the first step, each `log_every`-th, that of a checkpoint, and the last.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from train.metrics_file import drop_lines_after, has_validation

if TYPE_CHECKING:
    import torch

METRICS = "metrics.jsonl"


class LossSum(NamedTuple):
    """A loss as two sums, which add up over ranks and steps."""

    loss: float  # sum of weight * loss of a token, nats
    weight: float  # sum of weight


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One step, summed over all ranks where it is a sum."""

    step: int  # 1 is the run's first
    loss: float  # the step's, as trained on
    trained_tokens: int
    tokens: int  # of documents, without the padding
    slots: int  # packs * seq_len
    grad_norm: float  # before clipping
    lr: float
    seconds: float  # from the wait for its data to the end of the update
    data_wait: float  # seconds of these
    flops: int  # `step_flops`
    losses: Mapping[str, LossSum] = field(default_factory=dict)  # by data set
    source_losses: Mapping[str, LossSum] = field(default_factory=dict)  # by source, when asked for


@dataclass(frozen=True, slots=True)
class LoggedStep:
    """A line of metrics.jsonl with "event": "step". None, null in JSON: there is none, or it is not finite."""

    step: int
    loss: float | None  # of this step alone: equal whatever log_every is
    trained_tokens: int  # of the interval, so that the lines add up to the run
    tokens: int  # of the interval, without the padding
    trained_tokens_per_second: float | None  # of the interval, as the following
    tokens_per_second: float | None
    mfu: float | None  # share of the devices' dense bfloat16 peak, `train.flops`; None: the peak is not known
    fill: float | None  # share of the packs' places that hold a document's token
    grad_norm: float | None  # of this step, before clipping
    lr: float  # of this step
    memory: int  # bytes, the most so far on rank 0: allocated on its CUDA device, else resident
    data_wait: float | None  # share of the interval's time
    elapsed: float  # seconds since the run began; a resumed run goes on from its last line
    eta: float | None  # seconds to the last step, at the mean pace since this start's first step, with all pauses
    losses: Mapping[str, float | None]  # by data set: sum(weight * loss) / sum(weight) over the interval
    source_losses: Mapping[str, float | None]  # by source, as `losses`; empty unless asked for


@dataclass(frozen=True, slots=True)
class Totals:
    """Of the steps that trained since this start of the run."""

    steps: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    seconds: float = 0.0  # in steps

    def add(self, step: StepMetrics) -> "Totals":
        return Totals(
            steps=self.steps + 1,
            tokens=self.tokens + step.tokens,
            trained_tokens=self.trained_tokens + step.trained_tokens,
            seconds=self.seconds + step.seconds,
        )


class Watcher(Protocol):
    """Is shown each line of metrics.jsonl."""

    def step(self, line: LoggedStep) -> None: ...
    def validation(self, step: int, losses: Mapping[str, float | None]) -> None: ...


class Display(Watcher, Protocol):
    """Where the lines of text go."""

    def note(self, text: str) -> None: ...
    def end(self, totals: Totals, elapsed: float) -> None: ...


class MetricsLog:
    """Gets every step of a run of `steps`, of which the first `start_step` were done before."""

    def __init__(
        self,
        output: Path,
        *,
        log_every: int,
        steps: int,
        start_step: int = 0,
        display: Display,
        watchers: Sequence[Watcher] = (),
        peak_flops: float | None,
        memory: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        output.mkdir(parents=True, exist_ok=True)
        self._path = output / METRICS
        self._log_every, self._steps, self._display = log_every, steps, display
        self._watchers = (display, *watchers)
        self._peak_flops, self._memory, self._clock = peak_flops, memory, clock
        self._interval: list[StepMetrics] = []
        self._totals, self._started = Totals(), clock()
        self._logged = start_step
        self._pace_from: tuple[int, float] | None = None
        self._zero = clock() - drop_lines_after(self._path, start_step)

    def add(self, metrics: StepMetrics) -> None:
        """Called after each step that trained; a skipped one is left out."""
        self._interval.append(metrics)
        self._totals = self._totals.add(metrics)
        if self._is_due(metrics.step):
            self.flush()
        if not self._pace_from:  # the first step compiles and warms up: the others tell how long it will take
            self._pace_from = metrics.step, self._clock()

    def flush(self) -> None:
        """Log what was not yet: the interval ends here."""
        if not self._interval:
            return
        now, step = self._clock(), self._interval[-1].step
        memory, elapsed = self._memory(), now - self._zero
        line = summarise(self._interval, self._peak_flops, memory=memory, elapsed=elapsed, eta=self._eta(step, now))
        self._logged, self._interval = step, []
        self._write("step", asdict(line))
        for watcher in self._watchers:
            watcher.step(line)

    def validation(self, step: int, losses: Mapping[str, LossSum]) -> None:
        """The loss of each validation data set after `step` steps."""
        means = {name: mean(loss) for name, loss in losses.items()}
        self._write("validation", {"step": step, "elapsed": round(self._clock() - self._zero, 3), "losses": means})
        for watcher in self._watchers:
            watcher.validation(step, means)

    def has_validation(self, step: int) -> bool:
        """Whether the file has one after `step` steps."""
        return has_validation(self._path, step)

    def note(self, text: str) -> None:
        """Something for the eye alone."""
        self._display.note(text)

    def end(self) -> None:
        """What this start has done, for the eye."""
        self._display.end(self._totals, self._clock() - self._started)

    def _eta(self, step: int, now: float) -> float | None:
        if not self._pace_from:
            return None
        pace_step, pace_time = self._pace_from
        return (now - pace_time) / (step - pace_step) * (self._steps - step)

    def _is_due(self, step: int) -> bool:
        """Where the step that should be logged was skipped, the next one is."""
        return step // self._log_every > self._logged // self._log_every or self._logged == 0 or step == self._steps

    def _write(self, event: str, values: Mapping[str, Any]) -> None:
        line = json.dumps({"event": event, **finite(values)}, allow_nan=False)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def summarise(
    interval: Sequence[StepMetrics], peak_flops: float | None, *, memory: int, elapsed: float, eta: float | None
) -> LoggedStep:
    """The line of the interval's last step."""
    last = interval[-1]
    trained_tokens = sum(step.trained_tokens for step in interval)
    tokens = sum(step.tokens for step in interval)
    seconds = sum(step.seconds for step in interval)
    flops = ratio(sum(step.flops for step in interval), seconds)
    return LoggedStep(
        step=last.step,
        loss=last.loss,
        trained_tokens=trained_tokens,
        tokens=tokens,
        trained_tokens_per_second=ratio(trained_tokens, seconds, digits=1),
        tokens_per_second=ratio(tokens, seconds, digits=1),
        mfu=None if flops is None or peak_flops is None else round(flops / peak_flops, 6),
        fill=ratio(tokens, sum(step.slots for step in interval), digits=6),
        grad_norm=last.grad_norm,
        lr=last.lr,
        memory=memory,
        data_wait=ratio(sum(step.data_wait for step in interval), seconds, digits=6),
        elapsed=round(elapsed, 3),
        eta=None if eta is None else round(eta, 3),
        losses=mean_losses([step.losses for step in interval]),
        source_losses=mean_losses([step.source_losses for step in interval]),
    )


def mean_losses(losses: Sequence[Mapping[str, LossSum]]) -> dict[str, float | None]:
    """The mean of each name over the steps, in the order of the names' first appearance."""
    names = dict.fromkeys(name for step in losses for name in step)
    sums = {name: [step[name] for step in losses if name in step] for name in names}
    return {
        name: mean(LossSum(sum(part.loss for part in parts), sum(part.weight for part in parts)))
        for name, parts in sums.items()
    }


def mean(loss: LossSum) -> float | None:
    """None where nothing was trained."""
    return ratio(loss.loss, loss.weight)


def ratio(part: float, whole: float, digits: int | None = None) -> float | None:
    """part / whole; None where whole is 0."""
    if not whole:
        return None
    return part / whole if digits is None else round(part / whole, digits)


def finite(value: Any) -> Any:
    """The same with None for what JSON has no number for."""
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def peak_memory(device: "torch.device") -> int:
    """Bytes, the most so far: allocated on a CUDA device, or else resident in this process."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10  # Linux counts in KiB
