"""Tasks, such as `packline` commands, in processes forked from this one, which has imported everything: a build begins
at once."""

import contextlib
import importlib
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import psutil

import pipeline.cli
import pipeline.readers.csv_rows
import pipeline.readers.lines
import pipeline.readers.stream
import pipeline.runner
import pipeline.verify  # a command loads it when it runs
import pipeline.worker
from pipeline.worker_pool import WorkerPool

Task = Callable[[], int]
"""Returns an exit code."""

WATCHDOG_SECONDS = 60.0
"""No build takes so long, under whatever faults."""

GRACE_SECONDS = 2
"""For how long the runner may still say why a worker was lost; a user's build waits longer."""

READ_BYTES, READ_ROWS = 2048, 16
"""So much is read at a time: a small source is read in pieces, as a large one is."""


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code or minus a signal; None where the watchdog had to end it."""

    code: int | None
    text: str
    seconds: float


def packline(*arguments: str) -> Task:
    """The command line."""
    return lambda: pipeline.cli.main(arguments)


class Command:
    """A task that runs. Its processes are a session of their own."""

    def __init__(self, task: Task, folder: Path, name: str, arm: Callable[[], None]) -> None:
        self.output = folder / f"{name}.txt"
        self.began = time.monotonic()
        self._status: int | None = None
        self.process = os.fork()
        if self.process == 0:
            _run(task, folder, self.output, arm)

    def poll(self) -> int | None:
        """The exit code, or minus the number of the signal that ended it; None while it runs."""
        if self._status is None:
            process, status = os.waitpid(self.process, os.WNOHANG)
            if process:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status

    @property
    def hangs(self) -> bool:
        return self._status is None and time.monotonic() - self.began > WATCHDOG_SECONDS

    @property
    def text(self) -> str:
        """What it has printed."""
        return self.output.read_text("utf-8", "replace")

    def end(self) -> Ended:
        """How it ended; what still runs is killed."""
        code, seconds = self.poll(), time.monotonic() - self.began
        if code is None:
            self.kill()
        return Ended(code, self.text, seconds)

    def processes(self) -> list[psutil.Process]:
        """Those of the session that are alive: the launching process, the one that forks workers, the workers."""
        return [process for process in psutil.process_iter() if _is_alive_in(process, self.process)]

    def kill(self) -> None:
        """All of the session."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        while self.poll() is None:
            time.sleep(0.01)


def _is_alive_in(process: psutil.Process, session: int) -> bool:
    try:
        return os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False


def _run(task: Task, folder: Path, output: Path, arm: Callable[[], None]) -> None:
    """In the forked process: the task, with its own standard streams."""
    code = 70
    try:
        os.setsid()
        os.chdir(folder)
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(handle, stream)
        sys.stdout = sys.stderr = io.TextIOWrapper(os.fdopen(1, "wb", 0), write_through=True)
        pipeline.cli.started_pool = _forked_pool
        pipeline.runner.GRACE_SECONDS = GRACE_SECONDS
        pipeline.readers.stream.CHUNK = pipeline.readers.lines.CHUNK = READ_BYTES
        pipeline.readers.csv_rows._ROWS = READ_ROWS
        arm()
        code = task()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 70
    finally:
        os._exit(code)


@contextlib.contextmanager
def _forked_pool(runner: str, workers: int | None, *, debug: bool) -> Iterator[WorkerPool | None]:
    """As pipeline.worker_pool.started_pool, but that the process that forks workers is forked as well."""
    if workers == 1:
        yield None
        return
    pool = ForkedPool(debug=debug)
    try:
        yield pool
    finally:
        pool.stop()


class ForkedPool(WorkerPool):
    def __init__(self, *, debug: bool) -> None:
        self._process: Any = _ForkedProcess()


class _ForkedProcess:
    """Of subprocess.Popen what a pool uses."""

    def __init__(self) -> None:
        read, write = os.pipe()
        self._status: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.close(write)
            os.dup2(read, 0)
            sys.stdin = os.fdopen(0)
            pipeline.worker.main()
        os.close(read)
        self.stdin = os.fdopen(write, "wb")

    def poll(self) -> int | None:
        if self._status is None:
            process, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = status if process else None
        return self._status

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> None:
        while self.poll() is None:
            time.sleep(0.01)


def load_what_is_used(task: Task, folder: Path) -> None:
    """Import here what a task imports on its way, so that it is there in those that follow. The task itself runs
    in a process of its own: no thread may be started in this one."""
    names = folder / "modules"
    code = run_task(task, folder, "modules-of", lambda: _write_modules_at_exit(names)).code
    assert code == 0
    for name in names.read_text().split():
        if name not in sys.modules:
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def _write_modules_at_exit(names: Path) -> None:
    leave = os._exit

    def exit_with_names(code: int) -> NoReturn:
        names.write_text("\n".join(sys.modules))
        leave(code)

    os._exit = exit_with_names


def run_task(task: Task, folder: Path, name: str, arm: Callable[[], None] = lambda: None) -> Ended:
    command = Command(task, folder, name, arm)
    while command.poll() is None and not command.hangs:
        time.sleep(0.01)
    return command.end()
