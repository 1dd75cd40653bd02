"""The wish to end, asked for by a signal: kept between two rounds, so that nothing is left half-done."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
STEP_SECONDS = 0.1


class StopRequest:
    """True once somebody asked."""

    def __init__(self) -> None:
        self._asked = False

    def __bool__(self) -> bool:
        return self._asked

    def ask(self) -> None:
        self._asked = True

    def wait(self, seconds: float) -> None:
        """Sleep, but not on after somebody asked. In steps: a lock that is waited for must not be touched by a signal's
        handler."""
        end = time.monotonic() + seconds
        while not self and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, STEP_SECONDS))


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """SIGINT and SIGTERM ask; one more of either is a KeyboardInterrupt. Of the main thread alone."""
    stop = StopRequest()

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.ask()
        for number in SIGNALS:
            signal.signal(number, signal.default_int_handler)
        os.write(2, b"packline: ending; a round that runs is finished before, unless you ask again\n")

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
