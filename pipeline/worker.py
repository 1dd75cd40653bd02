"""Where the worker processes of the embedded runner come from: a process that loads what all of them need, and forks
one whenever it is asked to. So workers begin at once, and share what was loaded.

Started as `python -P -m pipeline.worker`, so that no file of the working folder is imported in the place of ours, while
the launching process still plans. What it reads on its standard input are pickled messages of that process: the build's
config, then for each worker the variables that Beam's harness looks for in its environment. It ends with its input.
Where a worker fails it ends, too, and no worker outlives it.
"""

import contextlib
import gc
import logging
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from pipeline.worker_pool import DEBUG_VARIABLE, collect_rarely

if TYPE_CHECKING:
    from pipeline.config import BuildConfig

_workers: set[int] = set()
"""Process ids."""


def main() -> None:
    if not os.environ.get(DEBUG_VARIABLE):
        logging.disable(logging.CRITICAL)
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - the harness prints tracebacks there; ours go to the launcher
    for number in (signal.SIGINT, signal.SIGTERM):  # the launching process gets it as well, and ends this one in time
        signal.signal(number, signal.SIG_IGN)
    collect_rarely()
    _preload()
    gc.freeze()  # a collection would write to every object, and no page would be shared any longer
    signal.signal(signal.SIGCHLD, _look_at_workers)
    parent = os.getpid()
    with contextlib.suppress(EOFError):
        while True:
            variables = pickle.load(sys.stdin.buffer)
            process = os.fork()
            if process == 0:
                _work(variables, parent)
            _workers.add(process)
    _end(0)


def _preload() -> None:
    """Nothing of this may start a thread: none would be there in the workers."""
    import apache_beam.runners.worker.sdk_worker_main  # noqa: F401

    import pipeline.transforms  # noqa: F401

    config = pickle.load(sys.stdin.buffer)
    with contextlib.suppress(Exception):  # what is wrong with a config the launching process says
        _load_tools(config)


def _load_tools(config: "BuildConfig") -> None:
    from pipeline.certify.oracle import load_oracle
    from pipeline.certify.planned import plan_certificate
    from pipeline.config import Custom
    from pipeline.recipe import load_fast_engine, load_recipe

    recipe, tools = load_recipe(config)
    if config.engine != "reference":
        with contextlib.suppress(Exception):  # there may be none for such a tokenizer
            load_fast_engine(recipe, tools)
    certificate = plan_certificate(config, tools.tokenizer.kind)
    is_own_code = any(isinstance(source.transform, Custom) for source in config.sources)
    if certificate is not None and not is_own_code:
        with _without_torch():
            load_oracle(recipe, tools, certificate)


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """transformers would load torch, for seconds, and tokenize without it. It remembers that there is none: so not for
    a user's own code."""
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]


def _look_at_workers(_number: int, _frame: FrameType | None) -> None:
    """End all where one has failed: the build cannot be finished without what it had to do."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            _workers.discard(ended[0])
            if ended[1]:
                _end(1)


def _end(code: int) -> NoReturn:
    for process in _workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    os._exit(code)


def _work(variables: dict[str, str], parent: int) -> NoReturn:
    """Beam's own harness, in a process just forked."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
        os.environ.update(variables)
        from apache_beam.runners.worker.sdk_worker_main import main as run_harness

        run_harness([])
        code = 0
    finally:
        os._exit(code)


def _end_with(parent: int) -> None:
    """End this process once the one that forked it is gone; Beam's harness would wait for ever."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    main()
