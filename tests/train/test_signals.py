"""A signal sets the flag; a second one, and one after the run, does what it did before."""

import os
import signal

import pytest

from train.signals import SIGNALS, stop_on_signals


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_asks_and_the_second_acts(number: signal.Signals) -> None:
    caught: list[int] = []
    before = signal.signal(number, lambda number, _: caught.append(number))
    try:
        with stop_on_signals() as stop:
            assert not stop
            os.kill(os.getpid(), number)
            assert stop
            assert not caught
            os.kill(os.getpid(), number)
            assert caught == [number]
        with stop_on_signals() as another:
            assert not another
        os.kill(os.getpid(), number)
        assert caught == [number, number]
    finally:
        signal.signal(number, before)
