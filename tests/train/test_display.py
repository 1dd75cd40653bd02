"""What is printed, on a terminal and where it is piped."""

import io
import os
import pty
import re
from dataclasses import replace

import pytest
from rich.console import Console

from train.display import (
    HEADER_EVERY,
    PlainDisplay,
    TerminalDisplay,
    duration,
    make_display,
    norm,
    percent,
    short_loss,
    size,
    time_left,
)
from train.metrics import LoggedStep, Totals

LINE = LoggedStep(
    step=1200,
    loss=2.04123,
    trained_tokens=20_000,
    tokens=50_000,
    trained_tokens_per_second=18_250.4,
    tokens_per_second=45_714.3,
    mfu=0.4123,
    fill=0.9987,
    grad_norm=1.234,
    lr=3e-4,
    memory=int(71.2 * 2**30),
    data_wait=0.001,
    elapsed=75.2,
    eta=3725.0,
    losses={"chat": 2.04123},
    source_losses={"a.jsonl": 1.0},
)
NOTHING = replace(
    LINE, trained_tokens_per_second=None, tokens_per_second=None, mfu=None, fill=None, data_wait=None, losses={}
)
EXTREME = replace(
    LINE,
    step=20_000,
    loss=1234.567,
    memory=141 << 30,
    tokens_per_second=3_512_345.0,
    mfu=1.0,
    fill=1.0,
    grad_norm=123456.0,
    eta=3e6,
)
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def terminal(width: int, *lines: LoggedStep, steps: int = 20_000) -> list[str]:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, color_system="standard")
    display = TerminalDisplay(console, steps)
    for line in lines:
        display.step(line)
    assert ESCAPE.search(file.getvalue())
    return ESCAPE.sub("", file.getvalue()).splitlines()


def test_piped_it_is_keys_and_values() -> None:
    file = io.StringIO()
    display = make_display(20_000, file)
    assert isinstance(display, PlainDisplay)
    display.step(LINE)
    display.step(replace(NOTHING, losses={"a": 1.0, "b": None}))
    display.validation(40, {"held out": 1.5})
    display.note("a word [red]")
    display.end(Totals(steps=1200, tokens=50_000, trained_tokens=20_000, seconds=10.0), 75.2)
    assert file.getvalue().splitlines() == [
        "step 1200  loss 2.0412  grad_norm 1.234  lr 0.0003  tokens/s 45,714  trained/s 18,250  mfu 41.2%  "
        "fill 99.9%  memory 71.2GiB  data_wait 0.1%  elapsed 1m15s  eta 1h02m",
        "step 1200  loss 2.0412  grad_norm 1.234  lr 0.0003  tokens/s -  trained/s -  mfu n/a  fill -  "
        "memory 71.2GiB  data_wait -  elapsed 1m15s  eta 1h02m  loss/a 1.0000  loss/b -",
        "validation step 40  loss/held out 1.5000",
        "a word [red]",
        "this start: 1,200 steps in 1m15s, 10s of it in steps; 50,000 tokens (5,000/s), "
        "20,000 of them trained (2,000/s)",
    ]
    assert file.getvalue().isascii()


def test_a_terminal_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as file:
        assert isinstance(make_display(10, file), TerminalDisplay)
    os.close(ours)


def test_columns_stand_under_their_titles() -> None:
    header, *lines = terminal(100, LINE, NOTHING, EXTREME)
    assert re.sub(" +", " ", header) == " step loss grad lr tokens/s trained/s mfu fill memory wait eta"
    ends = [match.end() for match in re.finditer(r"\S+", header)]
    assert len(header) == 99
    assert len(lines) == 3
    for line in lines:
        assert [match.end() for match in re.finditer(r"\S+", line)] == ends
    shown = "1,200/20,000 2.0412 1.234 3.0e-04 45,714 18,250 41.2% 99.9% 71.2GiB 0.1% 1h02m"
    assert " ".join(lines[0].split()) == shown


@pytest.mark.parametrize("width", [100, 80, 60, 40, 20])
def test_a_narrow_terminal_gets_fewer_columns(width: int) -> None:
    lines = terminal(width, LINE, EXTREME)
    assert len(lines) == 3
    assert all(len(line) <= max(width, 22) for line in lines)
    assert lines[0].split()[:2] == ["step", "loss"]
    assert (len(lines[0].split()) < 11) == (width < 99)


def test_a_header_now_and_then() -> None:
    lines = terminal(100, *[LINE] * (2 * HEADER_EVERY + 1))
    headers = [number for number, line in enumerate(lines) if "loss" in line]
    assert headers == [0, HEADER_EVERY + 1, 2 * HEADER_EVERY + 2]


def test_several_data_sets_get_a_line_of_their_own() -> None:
    _, line, losses = terminal(100, replace(LINE, losses={"chat [bold]": 2.5, "code": None}))
    assert losses.strip() == "chat [bold] 2.5000  code -"
    assert losses.index("chat") == line.index(" 2.0412")


def test_validation_and_notes_on_a_terminal() -> None:
    file = io.StringIO()
    display = TerminalDisplay(Console(file=file, width=100), 20_000)
    display.validation(40, {"chat": 1.5, "code": 2.5})
    display.note("a word [red]")
    display.end(Totals(), 2.0)
    assert file.getvalue() == "    40/20,000  validation  chat 1.5000  code 2.5000\na word [red]\n" + (
        "this start: 0 steps in 2s, 0s of it in steps; 0 tokens (-/s), 0 of them trained (-/s)\n"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.4, "59s"), (59.6, "1m00s"), (125, "2m05s"), (3599.7, "1h00m"), (3725, "1h02m"), (273_600, "3d04h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_numbers_are_short() -> None:
    norms = {0.01234: "0.012", 9.99: "9.990", 10.0: "10.0", 123.45: "123.5", 12345.0: "1e+04"}
    assert {value: norm(value) for value in norms} == norms
    shares = {0.0: "0.0%", 0.4123: "41.2%", 0.99949: "99.9%", 0.9996: "100%", 1.0: "100%"}
    assert {value: percent(value) for value in shares} == shares
    sizes = {0: "0MiB", 712 << 20: "712MiB", 1000 << 20: "1.0GiB", 80 << 30: "80.0GiB", 141 << 30: "141GiB"}
    assert {value: size(value) for value in sizes} == sizes
    losses = {2.04123: "2.0412", 99.9999: "99.9999", 123.456: "123.46", 1e8: "1.0e+08"}
    assert {value: short_loss(value) for value in losses} == losses
    assert time_left(None) == "-"
    assert norm(float("nan")) == "nan"
