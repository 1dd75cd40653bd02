"""An HTTP proxy in front of an S3 server, which loses, stalls, cuts and refuses as it is told. A process of its own:
`python store_proxy.py PORT SERVER_PORT`. What to do is POSTed to /-/faults as JSON."""

import http.client
import json
import sys
import threading
import time
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from faults import Fault, Injector, flip, half

CONTROL = "/-/faults"
_DROPPED = {"connection", "transfer-encoding", "content-length", "keep-alive"}
_ERRORS = {
    "refuse": (503, "SlowDown", "Please reduce your request rate."),
    "fail": (500, "InternalError", "We encountered an internal error. Please try again."),
    "full": (507, "XMinioStorageFull", "Storage backend has reached its minimum free drive threshold."),
}


class Proxy(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int, server_port: int) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.upstream = server_port
        self.lock = threading.Lock()
        self.injector: Injector | None = None

    def next(self, method: str, path: str) -> tuple[Fault | None, Injector | None]:
        with self.lock:
            operation: Any = "write" if method in ("PUT", "POST") else "read"
            injector = self.injector
            return (injector.next(operation, path) if injector else None), injector

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what this is for."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body in one packet
    server: Proxy

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def handle_expect_100(self) -> bool:
        go_on = super().handle_expect_100()
        self.wfile.flush()
        return go_on

    def _handle(self) -> None:
        body = self._read_body()
        if self.path == CONTROL:
            self._control(body)
            return
        fault, injector = self.server.next(self.command, self.path.partition("?")[0])
        act = fault.act if fault else None
        if fault is not None and act in _ERRORS:
            self._refuse(act)
            return
        if act == "stall":
            assert injector is not None
            time.sleep(injector.stall_seconds)
        writes = self.command in ("PUT", "POST")
        if act == "flip" and writes:
            body = flip(body)
        if act == "truncate" and writes:
            body = half(body)
        status, headers, answer = self._forward(body)
        if act == "lose":
            self._hang_up()
        elif act == "truncate" and not writes and fault is not None and answer:
            self._answer(status, headers, half(answer), len(answer) if fault.moment == "before" else None)
        else:
            self._answer(status, headers, flip(answer) if act == "flip" and not writes and answer else answer)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _handle  # noqa: N815 - names of the base class

    def _read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _control(self, body: bytes) -> None:
        told = json.loads(body)
        faults = [Fault(**fault) for fault in told["faults"]]
        log = Path(told["log"])
        with self.server.lock:
            self.server.injector = Injector(faults, log, 0, lambda _name, _act: None, told["stall_seconds"])
        self._answer(200, [], b"")

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _DROPPED}
        connection.request(self.command, self.path, body, headers | {"Content-Length": str(len(body))})
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, answer.getheaders(), data

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, declared: int | None = None) -> None:
        """With more bytes declared than there are, the connection is cut after them."""
        self.send_response_only(status)
        length = next((value for name, value in headers if name.lower() == "content-length"), None)
        for name, value in headers:
            if name.lower() not in _DROPPED:
                self.send_header(name, value)
        known = length if self.command == "HEAD" and length is not None else str(declared or len(data))
        self.send_header("Content-Length", known)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        self.wfile.flush()
        if declared is not None:
            self._hang_up()

    def _refuse(self, act: Any) -> None:
        status, code, message = _ERRORS[act]
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
        self._answer(status, [("Content-Type", "application/xml")], text.encode())

    def _hang_up(self) -> None:
        self.wfile.flush()
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def told(faults: list[Fault], log: Path, stall_seconds: float) -> bytes:
    """What to POST."""
    return json.dumps(
        {"faults": [asdict(fault) for fault in faults], "log": str(log), "stall_seconds": stall_seconds}
    ).encode()


if __name__ == "__main__":
    Proxy(int(sys.argv[1]), int(sys.argv[2])).serve_forever()
