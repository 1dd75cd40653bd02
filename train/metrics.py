"""What one sees of a run: for each logged step a line of metrics.jsonl and a line of text, both by rank 0."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

METRICS = "metrics.jsonl"


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One step, over all ranks. `tokens` are those of documents, without the padding."""

    step: int  # 1 is the first
    loss: float  # nats per trained token
    trained_tokens: int
    tokens: int
    grad_norm: float  # before clipping
    lr: float

    def line(self) -> str:
        return (
            f"step {self.step}  loss {self.loss:.4f}  trained {self.trained_tokens:,}  tokens {self.tokens:,}  "
            f"grad norm {self.grad_norm:.3f}  lr {self.lr:.3g}"
        )


class MetricsLog:
    """Gets every step and writes each `log_every`-th one. The rate is over the time since the line before."""

    def __init__(self, output: Path, log_every: int) -> None:
        output.mkdir(parents=True, exist_ok=True)
        self._path = output / METRICS
        self._log_every = log_every
        self._tokens = 0
        self._since = time.monotonic()

    def add(self, metrics: StepMetrics) -> None:
        self._tokens += metrics.tokens
        if metrics.step % self._log_every == 0:
            self._write(metrics)

    def _write(self, metrics: StepMetrics) -> None:
        now = time.monotonic()
        rate = self._tokens / (now - self._since)
        self._tokens, self._since = 0, now
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**asdict(metrics), "tokens_per_second": round(rate, 1)}) + "\n")
        print(f"{metrics.line()}  {rate:,.0f} tokens/s", flush=True)
