"""Sources and output on an S3 server, which the commands reach through a proxy that fails."""

import contextlib
import ctypes
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import s3fs
import sources
import yaml
from faults import Act, Fault, Injector, flip
from store_proxy import CONTROL, told
from worlds import inject_into_sources

from schemas.profiles import VARIABLE

BUCKET = "faults"
STALL_SECONDS = 1.5  # longer than a client waits, which then tries again
CLIENT = {
    "key": "none",
    "secret": "none",
    "client_kwargs": {"region_name": "us-east-1"},
    "config_kwargs": {"connect_timeout": 1, "read_timeout": 1, "retries": {"mode": "standard"}},
}

AUTHORIZATION = "AWS4-HMAC-SHA256 Credential=none/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
"""For the server, which looks for one and checks none."""


class S3World:
    name = "s3"
    source_folder = f"s3://{BUCKET}/in"
    output = f"s3://{BUCKET}/out"
    profile: str | None = "faults"

    def __init__(self, server_port: int, proxy_port: int) -> None:
        self._ports = server_port, proxy_port
        self._sources = sources.make_sources()

    def _request(self, method: str, path: str, data: bytes = b"", port: int | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port or self._ports[0], timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, data, {"Authorization": AUTHORIZATION})
            answer = connection.getresponse()
            return answer.status, answer.read()

    def prepare(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.begin((), folder / "log")
        self._request("POST", "/moto-api/reset")
        self._request("PUT", f"/{BUCKET}")
        self.restore_sources()

    def begin(self, faults: Sequence[Fault], log: Path) -> None:
        ours = [fault for fault in faults if fault.act not in ("kill", "stop", "change", "grow", "remove")]
        self._request("POST", CONTROL, told(ours, log, STALL_SECONDS), self._ports[1])

    def arm(self, injector: Injector) -> None:
        """What is no fault of the store: ends and stops of this process, and changed sources."""
        injector.faults = [f for f in injector.faults if f.act in ("kill", "stop", "change", "grow", "remove")]
        call = s3fs.S3FileSystem._call_s3

        async def interrupted(fs: s3fs.S3FileSystem, method: str, *arguments: object, **keywords: object) -> object:
            fault = injector.next("write", str(keywords["Key"])) if method == "put_object" else None
            injector.interrupt(fault, "before")
            answer = await call(fs, method, *arguments, **keywords)
            injector.interrupt(fault, "half")  # a store has no half objects
            injector.interrupt(fault, "after")
            return answer

        s3fs.S3FileSystem._call_s3 = interrupted
        inject_into_sources(injector)

    def read(self, name: str) -> bytes | None:
        status, data = self._request("GET", f"/{BUCKET}/out/{name}")
        return data if status == 200 else None

    def write(self, name: str, data: bytes) -> None:
        self._request("PUT", f"/{BUCKET}/out/{name}", data)

    def remove(self, name: str) -> None:
        self._request("DELETE", f"/{BUCKET}/out/{name}")

    def names(self) -> list[str]:
        _, listing = self._request("GET", f"/{BUCKET}?list-type=2&prefix=out/")
        return [name.removeprefix("out/") for name in re.findall(r"<Key>([^<]+)</Key>", listing.decode())]

    def change_source(self, name: str, act: Act) -> None:
        path, data = f"/{BUCKET}/in/{name}", self._sources[name]
        if act == "remove":
            self._request("DELETE", path)
        else:
            self._request("PUT", path, flip(data) if act == "change" else data + b'{"messages": []}\n')

    def restore_sources(self) -> None:
        for name, data in self._sources.items():
            self._request("PUT", f"/{BUCKET}/in/{name}", data)


@contextlib.contextmanager
def started_s3_world(profiles: Path) -> Iterator[S3World]:
    """The server and the proxy, in processes of their own. The file of profiles is written, and used from now on."""
    server_port, proxy_port = _free_port(), _free_port()
    proxy = Path(__file__).parent / "store_proxy.py"
    server = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(server_port)]
    commands = [server, [sys.executable, str(proxy), str(proxy_port), str(server_port)]]
    processes = [
        subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=_end_with_this_process
        )
        for command in commands
    ]
    try:
        _wait_for(server_port)
        _wait_for(proxy_port)
        profiles.write_text(yaml.safe_dump({"faults": CLIENT | {"endpoint_url": f"http://127.0.0.1:{proxy_port}"}}))
        os.environ[VARIABLE] = str(profiles)
        yield S3World(server_port, proxy_port)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _end_with_this_process() -> None:
    """Linux: the process that is being started is killed when the one that starts it is gone, however it went."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on port {port}")
