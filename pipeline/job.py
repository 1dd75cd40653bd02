"""A job that is submitted to a runner elsewhere: waited for, and cancelled where this process is interrupted."""

import contextlib
import shutil
import signal
import threading
from collections.abc import Iterator
from typing import Any


def run_submitted(pipeline: Any) -> None:
    """Raises the runner's error; at an interrupt (KeyboardInterrupt, SystemExit) cancels the job and goes on with it.

    To be called in the main thread: Beam sets a handler of Ctrl-C when it starts a job server.
    """
    with _stopped_job_servers(pipeline.runner):
        with _own_interrupts():
            result = pipeline.run()
        try:
            result.wait_until_finish()
        except (KeyboardInterrupt, SystemExit):
            with contextlib.suppress(Exception):  # the job service may be gone; the interrupt counts
                result.cancel()
            raise


def prepare_options(options: Any) -> None:
    """Nothing of this process goes with the job: workers have packline, and the plan's file has the rest.

    The Java job server runs in a session of its own, where Ctrl-C at the terminal does not end it: without it nothing
    could be cancelled.
    """
    from apache_beam.options.pipeline_options import JobServerOptions, SetupOptions

    options.view_as(SetupOptions).save_main_session = False
    setsid = shutil.which("setsid")
    server = options.view_as(JobServerOptions)
    if setsid is not None:
        server.job_server_jvm_properties = [server.job_server_java_launcher, *server.job_server_jvm_properties]
        server.job_server_java_launcher = setsid


@contextlib.contextmanager
def _own_interrupts() -> Iterator[None]:
    """Beam's own handler would stop the job server before it could be told to cancel the job."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _stopped_job_servers(runner: Any) -> Iterator[None]:
    """What Beam starts to submit a job it leaves to the end of the process; here it ends with the job."""
    make = getattr(runner, "default_job_server", None)
    servers: list[Any] = []

    def make_kept(options: Any) -> Any:
        assert make is not None
        servers.append(make(options))
        return servers[-1]

    if make is not None:
        runner.default_job_server = make_kept
    try:
        yield
    finally:
        for server in servers:
            server.stop()
