"""The rendering under way, which a template's code asks before each iteration and tells of its end."""

from contextvars import ContextVar
from typing import Any, Protocol

from jinja2.runtime import LoopContext

from pipeline.chat.steps.fingerprints import Outlook, Spaces


class Run(Protocol):
    def looks_up(self, number: int) -> bool:
        """Whether `begin` wants values for loop `number`."""

    def is_idle(self, context: LoopContext, flag: Any) -> bool:
        """Whether what is left of a loop does nothing; `flag` is that of its plan."""

    def begin(self, number: int, values: Any, spaces: Spaces, outlook: Outlook | None) -> bool:
        """Whether the iteration has to be run. `values` are the item, the values of the guards and the variables that
        are read; None where one of them could not be had."""

    def end(self, spaces: Spaces) -> None:
        """The iteration has been run to its end."""


current: ContextVar[Run | None] = ContextVar("run", default=None)


def looks_up(number: int) -> bool:
    run = current.get()
    return run is not None and run.looks_up(number)


def begin(number: int, values: Any, spaces: Spaces, outlook: Outlook | None) -> bool:
    run = current.get()
    return run is None or run.begin(number, values, spaces, outlook)


def is_idle(context: LoopContext, flag: Any) -> bool:
    run = current.get()
    return run is not None and run.is_idle(context, flag)


def end(spaces: Spaces) -> None:
    run = current.get()
    if run is not None:
        run.end(spaces)
