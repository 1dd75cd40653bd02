"""What Beam and its job servers print: kept back, unless a run fails without saying why."""

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Iterator

KEPT_LINES = 20
_JOB_SERVERS = ("FlinkJarJobServer", "SparkJarJobServer")
"""Loggers of what the Java processes print that Beam starts."""


class KeptLog(logging.Handler):
    """The last lines."""

    def __init__(self) -> None:
        super().__init__()
        self._records: deque[str] = deque(maxlen=KEPT_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append(record.getMessage())

    @property
    def lines(self) -> list[str]:
        return "\n".join(self._records).splitlines()[-KEPT_LINES:]


@contextlib.contextmanager
def kept_log(*, debug: bool) -> Iterator[KeptLog]:
    """Beam logs to the root logger, too. With `debug` all is printed as well."""
    kept = KeptLog()
    root = logging.getLogger()
    levels = {"": logging.WARNING, "apache_beam": logging.WARNING} | dict.fromkeys(_JOB_SERVERS, logging.INFO)
    levels = dict.fromkeys(levels, logging.INFO) if debug else levels
    before = {name: logging.getLogger(name).level for name in levels}
    handlers = root.handlers[:]
    root.handlers = [kept, *(handlers or [logging.StreamHandler()])] if debug else [kept]
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    try:
        with _quiet_threads(debug):
            yield kept
    finally:
        root.handlers = handlers
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def _quiet_threads(debug: bool) -> Iterator[None]:
    """Threads of Beam that talk to a worker die of an exception with it."""
    before = threading.excepthook
    if not debug:
        threading.excepthook = lambda _: None
    try:
        yield
    finally:
        threading.excepthook = before
