"""A signal asks; one more interrupts."""

import os
import signal

import pytest

from pipeline.watch.stop import SIGNALS, StopRequest, stop_on_signals


@pytest.mark.parametrize("second", SIGNALS)
@pytest.mark.parametrize("first", SIGNALS)
def test_a_signal_asks_and_another_interrupts(first: signal.Signals, second: signal.Signals) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with stop_on_signals() as stop:
        assert not stop
        os.kill(os.getpid(), first)
        assert stop
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), second)
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_nobody_waits_who_was_asked() -> None:
    stop = StopRequest()
    stop.wait(0.01)
    stop.ask()
    stop.wait(10**9)
