"""transformers reads the clock of the machine; while it renders it is shown the clock of the build."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from types import ModuleType

_LOCK = threading.Lock()


class _PinnedDatetime:
    """What a template's `strftime_now` calls: `datetime.now().strftime(format)`."""

    def __init__(self, day: date) -> None:
        self._now = datetime(day.year, day.month, day.day)

    def now(self) -> datetime:
        return self._now


@contextmanager
def pinned_clock(module: ModuleType, day: date) -> Iterator[None]:
    """`module` is transformers.utils.chat_template_utils. One thread at a time; the module is as it was afterwards."""
    with _LOCK:
        own = module.datetime
        module.datetime = _PinnedDatetime(day)  # type: ignore[attr-defined]
        try:
            yield
        finally:
            module.datetime = own  # type: ignore[attr-defined]
