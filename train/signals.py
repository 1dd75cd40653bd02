"""Signals that ask a run to stop: it saves after the step in hand and ends."""

import signal
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopFlag:
    """True once a signal came. The same signal a second time does what it does to any process."""

    def __init__(self) -> None:
        self._set = False
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}

    def __bool__(self) -> bool:
        return self._set

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._set = True
        signal.signal(number, self._before[signal.Signals(number)])
