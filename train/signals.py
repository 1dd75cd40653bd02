"""Signals that ask a run to stop: it saves after the step in hand and ends."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopFlag:
    """True once a signal came."""

    def __init__(self) -> None:
        self.is_set = False

    def __bool__(self) -> bool:
        return self.is_set


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Signals set the flag, and come twice where a launcher passes on what its ranks got, too. Only a second SIGINT,
    which someone types, does what it does to any process."""
    flag = StopFlag()
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def handle(number: int, frame: FrameType | None) -> None:
        flag.is_set = True
        if number == signal.SIGINT:
            signal.signal(number, before[signal.SIGINT])

    for number in SIGNALS:
        signal.signal(number, handle)
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
