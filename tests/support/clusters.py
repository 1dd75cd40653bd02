"""A cluster on one machine, as far as Beam sees one: a job service that knows nothing of packline, and a pool of
workers in another folder, from an environment that has packline from its wheel alone."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEPENDENCIES = sysconfig.get_path("purelib")
"""Where the libraries are. A path that is given, and no site folder: the editable install there does not count."""


def wait_until(
    found: Callable[[], bool], process: "subprocess.Popen[bytes] | None" = None, seconds: float = 120
) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert process is None or process.poll() is None, f"{process.args} ended with {process.returncode}"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_open(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("localhost", port), 1):
        return True
    return False


def build_wheel(folder: Path) -> Path:
    """Of a copy, for setuptools would leave its own copy in the checkout."""
    source = folder / "source"
    source.mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("schemas", "pipeline", "train"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*command, str(source)], check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def make_environment(wheel: Path, folder: Path) -> Path:
    """A virtual environment with the wheel in it, and the libraries; its `bin`."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(site)
    (site / "dependencies.pth").write_text(f"{DEPENDENCIES}\n")
    return folder / "bin"


def _start(command: list[str], folder: Path, **variables: str) -> "subprocess.Popen[bytes]":
    """In a group of its own, which `stop` ends, and without this process's paths."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            command, cwd=folder, env={**kept, **variables}, start_new_session=True, stdout=log, stderr=log
        )


@contextlib.contextmanager
def started(command: list[str], folder: Path, port: int, **variables: str) -> Iterator[int]:
    """The port of a server, once it answers."""
    process = _start(command, folder, **variables)
    try:
        wait_until(lambda: is_open(port), process)
        yield port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def libraries_alone(module: str, *arguments: str) -> list[str]:
    """A command that runs a module without the site folders, and so without packline; for PYTHONPATH=DEPENDENCIES."""
    return [sys.executable, "-S", "-m", module, *arguments]
