"""Ranks of a training run for tests, forked from a process that has imported the trainer.

So torch's import, several seconds of a core, is paid once and not by torchrun and each rank. A rank finds in its
environment what torchrun puts there. What torchrun itself does (its store, restarts, messages) is not shown this way.

Run as a script it is that process: jobs come in as lines of JSON, and exit codes go out.
"""

import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from ports import free_port

SECONDS = 120
GRACE = 10
"""Seconds that the ranks have after one has failed. torchrun ends them, too."""


class ForkedRanks:
    """`path`: where modules are found, besides the installed ones."""

    def __init__(self, path: list[Path]) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, path))}
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(self, ranks: int, *command: object, **variables: str) -> subprocess.CompletedProcess[str]:
        """Each rank runs `-m MODULE ARGUMENTS` or `SCRIPT ARGUMENTS`. What they print comes one rank after the other;
        the code is that of the first that failed, or 0."""
        assert self._server.stdin
        assert self._server.stdout
        words = [str(word) for word in command]
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, **variables}  # of now: a fixture may have set variables since the start
            job = {"ranks": ranks, "command": words, "environment": environment, "folder": folder}
            print(json.dumps(job), file=self._server.stdin, flush=True)
            codes = json.loads(self._server.stdout.readline())
            printed = ["".join((Path(folder) / f"{rank}.{name}").read_text() for rank in range(ranks))
                       for name in ("out", "err")]  # fmt: skip
        return subprocess.CompletedProcess(words, next(filter(None, codes), 0), *printed)

    def close(self) -> None:
        self._server.communicate()


def serve() -> None:
    import train.loop  # noqa: F401 - what every rank then has

    for line in sys.stdin:
        print(json.dumps(run_job(json.loads(line))), flush=True)


def run_job(job: Mapping[str, Any]) -> list[int]:
    """The exit codes, by rank."""
    port, rank_of = free_port(), {}
    for rank in range(job["ranks"]):
        if not (process := os.fork()):
            become_rank(job, rank, port)
        rank_of[process] = rank
    codes: dict[int, int] = {}
    deadline = time.monotonic() + SECONDS
    while len(codes) < len(rank_of):
        ended, status = os.waitpid(-1, os.WNOHANG)
        if ended:
            codes[rank_of[ended]] = os.waitstatus_to_exitcode(status)
            if codes[rank_of[ended]]:
                deadline = min(deadline, time.monotonic() + GRACE)
        elif time.monotonic() > deadline:
            for process, rank in rank_of.items():
                if rank not in codes:
                    os.kill(process, signal.SIGKILL)
        else:
            time.sleep(0.01)
    return [codes[rank] for rank in sorted(codes)]


def become_rank(job: Mapping[str, Any], rank: int, port: int) -> NoReturn:
    code = 1
    try:
        for number, name in enumerate(("in", "out", "err")):
            path = "/dev/null" if name == "in" else f"{job['folder']}/{rank}.{name}"
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
        ranks = str(job["ranks"])
        places = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
        os.environ.update(job["environment"] | places, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        code = run_program(job["command"])
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run_program(command: list[str]) -> int:
    """Its exit code."""
    try:
        if command[0] == "-m":
            sys.argv = command[1:]
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = command
            sys.path.insert(0, str(Path(command[0]).parent))
            runpy.run_path(command[0], run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


if __name__ == "__main__":
    serve()
