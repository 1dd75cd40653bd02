"""TensorBoard's event files: each number of metrics.jsonl under a tag, at its step."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from schemas.errors import ConfigError
from train.metrics import LoggedStep, finite

FOLDER = "tensorboard"


def check_tensorboard() -> None:
    """Raises ConfigError where it cannot be imported."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"tensorboard: true needs the package tensorboard ({error}); pip install 'packline[tensorboard]', or give "
            "--set tensorboard=false"
        ) from error


class EventFiles:
    """A watcher. Every line is on the disk when it returns, so that nothing has to be closed."""

    def __init__(self, output: Path, start_step: int, config: Mapping[str, Any]) -> None:
        """A start after `start_step` steps hides what an earlier one wrote of the steps that are done again."""
        from torch.utils.tensorboard import SummaryWriter

        purge_step = start_step + 1 if start_step else 0
        self._writer = SummaryWriter(output / FOLDER, purge_step=purge_step)
        text = yaml.safe_dump(dict(config), sort_keys=False)
        self._writer.add_text("config", f"```\n{text}```", start_step)

    def step(self, line: LoggedStep) -> None:
        values = asdict(line)
        self._write(values.pop("step"), values)

    def validation(self, step: int, losses: Mapping[str, float | None]) -> None:
        self._write(step, {"validation": losses})

    def _write(self, step: int, values: Mapping[str, Any]) -> None:
        for tag, number in list_scalars(values):
            self._writer.add_scalar(tag, number, step)
        self._writer.flush()


def list_scalars(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """(tag, number) of what is one: `loss` is train/loss, and `chat` of `losses` is losses/chat."""
    for key, value in finite(values).items():
        named = value if isinstance(value, Mapping) else {key: value}
        group = key if isinstance(value, Mapping) else "train"
        yield from ((f"{group}/{name}", number) for name, number in named.items() if number is not None)
