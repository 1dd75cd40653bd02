"""Lines of text for the eye: aligned and coloured columns on a terminal, `key value` pairs where they are piped."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, TextIO

from rich.console import Console
from rich.text import Text

from train.metrics import Display, LoggedStep, Totals, ratio

Losses = Mapping[str, float | None]

HEADER_EVERY = 20
GAP = "  "
LONG_WAIT = 0.05
"""A share of time spent waiting for data that is worth a colour."""


def make_display(steps: int, file: TextIO | None = None) -> Display:
    """For the standard output, or another file."""
    console = Console(file=file, highlight=False, markup=False, emoji=False)
    return TerminalDisplay(console, steps) if console.is_terminal else PlainDisplay(file)


class PlainDisplay:
    """One line each: `step 20  loss 2.0412  ...`."""

    def __init__(self, file: TextIO | None) -> None:
        self._file = file

    def step(self, line: LoggedStep) -> None:
        values = {
            "step": str(line.step),
            "loss": number(line.loss, ".4f"),
            "grad_norm": norm(line.grad_norm),
            "lr": f"{line.lr:.3g}",
            "tokens/s": number(line.tokens_per_second, ",.0f"),
            "trained/s": number(line.trained_tokens_per_second, ",.0f"),
            "mfu": percent(line.mfu, "n/a"),
            "fill": percent(line.fill),
            "memory": size(line.memory),
            "data_wait": percent(line.data_wait),
            "elapsed": duration(line.elapsed),
            "eta": time_left(line.eta),
        }
        self._print(values | (loss_words(line.losses) if len(line.losses) > 1 else {}))

    def validation(self, step: int, losses: Losses) -> None:
        self._print({"validation": f"step {step}", **loss_words(losses)})

    def end(self, totals: Totals, elapsed: float) -> None:
        self.note(describe_totals(totals, elapsed))

    def note(self, text: str) -> None:
        print(text, file=self._file, flush=True)

    def _print(self, values: Mapping[str, str]) -> None:
        self.note(GAP.join(f"{key} {value}" for key, value in values.items()))


class Column(NamedTuple):
    title: str
    width: int
    text: Callable[[LoggedStep], str]
    style: Callable[[LoggedStep], str] = lambda line: ""


def make_columns(steps: int) -> list[Column]:
    """99 characters wide for 20,000 steps, with the gaps."""
    return [
        Column("step", max(9, 2 * len(f"{steps:,}") + 1), lambda line: progress(line.step, steps)),
        Column("loss", 7, lambda line: short_loss(line.loss), lambda line: finite_style(line.loss, "bold cyan")),
        Column("grad", 6, lambda line: norm(line.grad_norm), lambda line: finite_style(line.grad_norm, "")),
        Column("lr", 7, lambda line: f"{line.lr:.1e}"),
        Column("tokens/s", 9, lambda line: number(line.tokens_per_second, ",.0f"), lambda line: "green"),
        Column("trained/s", 9, lambda line: number(line.trained_tokens_per_second, ",.0f"), lambda line: "green"),
        Column("mfu", 5, lambda line: percent(line.mfu, "n/a"), lambda line: "dim" if line.mfu is None else ""),
        Column("fill", 5, lambda line: percent(line.fill)),
        Column("memory", 7, lambda line: size(line.memory)),
        Column("wait", 5, lambda line: percent(line.data_wait), wait_style),
        Column("eta", 6, lambda line: time_left(line.eta), lambda line: "bold"),
    ]


LEAST_NEEDED = ("fill", "trained/s", "wait", "lr", "memory", "grad", "mfu", "tokens/s", "eta")
"""What goes first where the terminal is narrow."""


def fit_columns(columns: list[Column], width: int) -> list[Column]:
    """Without those for which there is no room."""
    for title in LEAST_NEEDED:
        if sum(column.width + len(GAP) for column in columns) - len(GAP) <= width:
            break
        columns = [column for column in columns if column.title != title]
    return columns


class TerminalDisplay:
    """A table that goes on and on, with its header now and then."""

    def __init__(self, console: Console, steps: int) -> None:
        self._console, self._steps, self._columns = console, steps, make_columns(steps)
        self._lines = 0

    def step(self, line: LoggedStep) -> None:
        columns = fit_columns(self._columns, self._console.width)
        if self._lines % HEADER_EVERY == 0:
            self._print(Text(GAP.join(column.title.rjust(column.width) for column in columns), "dim underline"))
        cells = [(column.text(line).rjust(column.width), column.style(line)) for column in columns]
        self._print(Text(GAP).join(Text(*cell) for cell in cells))
        if len(line.losses) > 1:
            self._losses([""], line.losses, "dim")
        self._lines += 1

    def validation(self, step: int, losses: Losses) -> None:
        self._losses([progress(step, self._steps), "validation"], losses, "magenta")

    def end(self, totals: Totals, elapsed: float) -> None:
        self._print(Text(describe_totals(totals, elapsed), "bold"))

    def note(self, text: str) -> None:
        self._print(Text(text, "dim"))

    def _losses(self, start: list[str], losses: Losses, style: str) -> None:
        words = [f"{name} {number(loss, '.4f')}" for name, loss in losses.items()]
        self._print(Text(GAP.join([start[0].rjust(self._columns[0].width), *start[1:], *words]), style))

    def _print(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)


def loss_words(losses: Losses) -> dict[str, str]:
    return {f"loss/{name}": number(loss, ".4f") for name, loss in losses.items()}


def finite_style(value: float | None, style: str) -> str:
    return style if value is not None and math.isfinite(value) else "bold red"


def wait_style(line: LoggedStep) -> str:
    return "yellow" if (line.data_wait or 0) > LONG_WAIT else ""


def progress(step: int, steps: int) -> str:
    return f"{step:,}/{steps:,}"


def number(value: float | None, form: str, none: str = "-") -> str:
    return none if value is None else format(value, form)


def short_loss(value: float | None) -> str:
    """In 7 characters: 2.0412, 123.45, 1.2e+05."""
    digits = ".4f" if value is None or value < 100 else ".2f" if value < 9999 else ".1e"
    return number(value, digits)


def norm(value: float | None) -> str:
    """In 6 characters: 0.123, 12.3, 1e+04."""
    digits = ".3f" if value is None or value < 10 else ".1f" if value < 1000 else ".0e"
    return number(value, digits)


def percent(share: float | None, none: str = "-") -> str:
    """In 5 characters: 41.2%, 100%."""
    return none if share is None else f"{share:.1%}" if share < 0.9995 else f"{share:.0%}"


def size(count: float) -> str:
    """Bytes in 7 characters: 712MiB, 71.2GiB, 139GiB."""
    mebibytes, gibibytes = count / 2**20, count / 2**30
    return f"{mebibytes:.0f}MiB" if mebibytes < 999.5 else f"{gibibytes:.{int(gibibytes < 99.95)}f}GiB"


def describe_totals(totals: Totals, elapsed: float) -> str:
    """Rates are over the time in steps."""
    tokens, trained = (
        f"{count:,} {what} ({number(ratio(count, totals.seconds), ',.0f')}/s)"
        for count, what in ((totals.tokens, "tokens"), (totals.trained_tokens, "of them trained"))
    )
    return (
        f"this start: {totals.steps:,} steps in {duration(elapsed)}, {duration(totals.seconds)} of it in steps; "
        f"{tokens}, {trained}"
    )


def time_left(seconds: float | None) -> str:
    return "-" if seconds is None else duration(seconds)


def duration(seconds: float) -> str:
    """Two units: 45s, 2m05s, 1h02m, 3d04h."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    days, hours_left = divmod(hours, 24)
    if days:
        return f"{days}d{hours_left:02}h"
    if hours:
        return f"{hours}h{minutes_left:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
