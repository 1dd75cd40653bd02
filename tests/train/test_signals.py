"""A signal sets the flag; a second interrupt, and any after the run, does what it did before."""

import os
import signal

import pytest

from train.signals import SIGNALS, stop_on_signals


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_asks_and_only_a_second_interrupt_acts(number: signal.Signals) -> None:
    caught: list[int] = []
    before = signal.signal(number, lambda number, _: caught.append(number))
    try:
        with stop_on_signals() as stop:
            assert not stop
            os.kill(os.getpid(), number)
            assert stop
            assert not caught
            os.kill(os.getpid(), number)
            acted = [number] * (number == signal.SIGINT)
            assert caught == acted
        with stop_on_signals() as another:
            assert not another
        os.kill(os.getpid(), number)
        assert caught == [*acted, number]
    finally:
        signal.signal(number, before)
