"""The worker processes of the embedded runner, seen from the launching process: the one that forks them, and what Beam
is told of it. Imports little: the earlier it is started, the earlier there are workers."""

import contextlib
import gc
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pipeline.runner_choice import EMBEDDED

if TYPE_CHECKING:
    from pipeline.config import BuildConfig

DEBUG_VARIABLE = "PACKLINE_DEBUG"
SAFE = {
    "PYTHONSAFEPATH": "1",  # a user's own schemas.py must not be imported in the place of ours
    "TOKENIZERS_PARALLELISM": "false",
}


class WorkerPool:
    """A process of pipeline.worker, which loads what it can while the launching process plans the build."""

    def __init__(self, *, debug: bool) -> None:
        command = [sys.executable, "-P", "-m", "pipeline.worker"]
        environment = {**os.environ, **SAFE, DEBUG_VARIABLE: "1" if debug else ""}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)

    def prepare(self, config: "BuildConfig") -> None:
        """Tell what to load. To be called once, before any worker is forked."""
        self._send(config)

    def fork(self, variables: dict[str, str]) -> None:
        """One more worker, with these environment variables."""
        self._send(variables)

    def _send(self, message: Any) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `has_failed` tells
            self._process.stdin.write(pickle.dumps(message))
            self._process.stdin.flush()

    @property
    def has_failed(self) -> bool:
        """Whether a worker was killed or failed."""
        return self._process.poll() is not None

    def stop(self) -> None:
        """A worker ends within a second of the process that forked it."""
        self._process.kill()
        self._process.wait()


def collect_rarely() -> None:
    """For processes of our own. What is loaded at start stays, and rows and tokens are no cycles: to look through them
    for garbage takes a third of the time to start, and more of the work the more rows a block has."""
    gc.set_threshold(100_000, 50, 100)


def default_workers(units: int) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, units))


@contextlib.contextmanager
def started_pool(runner: str, workers: int | None, *, debug: bool) -> Iterator[WorkerPool | None]:
    """The pool of a build that may need one; None where it cannot."""
    if runner != EMBEDDED or (workers or default_workers(sys.maxsize)) == 1:
        yield None
        return
    pool = WorkerPool(debug=debug)
    try:
        yield pool
    finally:
        pool.stop()


def beam_environment(pool: WorkerPool) -> Any:
    """The environment whose workers the pool forks, to be a pipeline's default one."""
    from apache_beam.runners.portability.fn_api_runner.worker_handlers import GrpcWorkerHandler, WorkerHandler
    from apache_beam.transforms.environments import Environment

    urn = f"packline:env:{id(pool)}:v1"

    class PoolEnvironment(Environment):  # type: ignore[misc]
        def to_runner_api_parameter(self, context: Any) -> tuple[str, None]:
            return urn, None

    class PoolHandler(GrpcWorkerHandler):  # type: ignore[misc]
        def start_worker(self) -> None:
            place = str(self.control_api_service_descriptor())
            pool.fork({"WORKER_ID": self.worker_id, "CONTROL_API_SERVICE_DESCRIPTOR": place})

        def stop_worker(self) -> None:
            """Its work is done and known to be; it is ended with the pool."""

    WorkerHandler.register_environment(urn, None)(lambda _, *arguments: PoolHandler(*arguments))
    return PoolEnvironment()
