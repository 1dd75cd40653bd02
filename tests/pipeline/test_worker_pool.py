"""The process that forks workers: no worker outlives it, it or the launching process, and one that fails ends it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil
import pytest

from pipeline.blocks import SourceFile, Stretch, Unit
from pipeline.config import BuildConfig
from pipeline.runner import largest_first
from pipeline.worker_pool import WorkerPool, default_workers, started_pool

NOWHERE = {"WORKER_ID": "w", "CONTROL_API_SERVICE_DESCRIPTOR": 'url: "localhost:9"'}
"""Beam's harness waits for a minute for somebody to answer there."""
CONFIG = BuildConfig.model_validate(
    {
        "output": "out",
        "seq_len": 64,
        "sources": [{"path": "rows.jsonl", "transform": {"type": "text"}}],
        "tokenizer": {"path": "a tokenizer that is not there"},  # what the launching process will say
    }
)
LAUNCH = """
import pickle, sys
from pipeline.worker_pool import WorkerPool
config, variables = pickle.load(sys.stdin.buffer)
pool = WorkerPool(debug=False)
pool.prepare(config)
pool.fork(variables)
sys.stdin.buffer.read()
"""


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def children(process: int) -> list[psutil.Process]:
    return psutil.Process(process).children(recursive=True)


@dataclass
class Started:
    pool: WorkerPool
    process: psutil.Process  # that forks
    workers: list[psutil.Process]


@pytest.fixture
def started() -> Iterator[Started]:
    before = children(os.getpid())  # such as servers that other tests of this process have started
    with started_pool("FnApiRunner", 2, debug=False) as pool:
        assert pool is not None
        pool.prepare(CONFIG)
        pool.fork(NOWHERE)
        pool.fork(NOWHERE)
        wait_for(lambda: len(children(os.getpid())) == len(before) + 3)
        process, *workers = (child for child in children(os.getpid()) if child not in before)
        yield Started(pool, process, workers)


def test_a_pool_is_for_workers_of_the_embedded_runner() -> None:
    before = children(os.getpid())  # other tests of this process may have left multiprocessing's helpers
    for runner, workers in (("FnApiRunner", 1), ("FlinkRunner", 2)):
        with started_pool(runner, workers, debug=False) as none:
            assert none is None
    assert children(os.getpid()) == before
    assert default_workers(1) == 1
    assert 1 <= default_workers(10**6) <= (os.cpu_count() or 1)


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_others(started: Started) -> None:
    assert not started.pool.has_failed
    assert {worker.ppid() for worker in started.workers} == {started.process.pid}
    started.workers[0].send_signal(signal.SIGKILL)
    wait_for(lambda: started.pool.has_failed)
    assert not psutil.wait_procs(started.workers, timeout=10)[1]


@pytest.mark.slow
def test_workers_end_with_the_process_that_forked_them(started: Started) -> None:
    started.process.kill()
    wait_for(lambda: started.pool.has_failed)
    assert not psutil.wait_procs(started.workers, timeout=10)[1]
    started.pool.fork(NOWHERE)  # to be told by `has_failed`, not by an exception in Beam's thread


@pytest.mark.slow
def test_workers_end_with_the_launching_process() -> None:
    import pickle

    launcher = subprocess.Popen([sys.executable, "-c", LAUNCH], stdin=subprocess.PIPE)
    assert launcher.stdin is not None
    launcher.stdin.write(pickle.dumps((CONFIG, NOWHERE)))
    launcher.stdin.flush()
    wait_for(lambda: len(children(launcher.pid)) == 2)
    started = children(launcher.pid)
    launcher.kill()
    launcher.wait()
    assert not psutil.wait_procs(started, timeout=10)[1]


def test_units_are_dealt_from_the_largest_to_the_smallest() -> None:
    file = SourceFile("a.jsonl", 0, "jsonl", None, 100, None, None)
    sizes = [(3, 4), (9,), (1,), (8, 1), (2,)]
    units = [Unit(index, tuple(Stretch(0, file, 5, 5 + size) for size in parts)) for index, parts in enumerate(sizes)]
    assert [unit.index for unit in largest_first(units)] == [1, 3, 0, 4, 2]  # equal ones in the order of the plan
