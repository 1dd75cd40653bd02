"""A tiny S3 server of one process that fails as it is told to: 503, 500, a closed connection, an answer cut short."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Fault = Literal["503", "500", "closed", "short", "lost"]
"""`short` is a GET's body cut off; `lost` does what was asked, and closes the connection without an answer."""

_ERROR = "<Error><Code>{code}</Code><Message>{code} it is</Message></Error>"


class FailingStore(ThreadingHTTPServer):
    """Objects by path, and the faults of the next requests with bodies to give or to take."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.always: Fault | None = None
        self.requests: list[str] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def next_fault(self) -> Fault | None:
        return self.always or (self.faults.pop(0) if self.faults else None)


class _Handler(BaseHTTPRequestHandler):
    server: FailingStore
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.server.requests.append("HEAD")
        data = self.server.objects.get(self.path)
        self._answer(200 if data is not None else 404, b"", len(data or b""))

    def do_GET(self) -> None:
        self.server.requests.append("GET")
        fault = self.server.next_fault()
        if self._fails(fault):
            return
        data = self.server.objects.get(self.path)
        if data is None:
            self._answer(404, _ERROR.format(code="NoSuchKey").encode())
            return
        asked = self.headers.get("Range")
        if asked:
            first, last = map(int, asked.removeprefix("bytes=").split("-"))
            data = data[first : last + 1]
        self._answer(206 if asked else 200, data[: len(data) // 2] if fault == "short" else data, len(data))

    def do_PUT(self) -> None:
        self.server.requests.append("PUT")
        data = self.rfile.read(int(self.headers["Content-Length"]))
        fault = self.server.next_fault()
        if fault != "lost" and self._fails(fault):
            return
        if self.headers.get("If-None-Match") == "*" and self.path in self.server.objects:
            error = "<Error><Code>PreconditionFailed</Code><Condition>If-None-Match</Condition></Error>"
            self._answer(412, error.encode())
            return
        self.server.objects[self.path] = data
        if not self._fails(fault):
            self._answer(200, b"")

    def _fails(self, fault: Fault | None) -> bool:
        if fault in ("closed", "lost"):
            self.close_connection = True
        elif fault == "503":
            self._answer(503, _ERROR.format(code="SlowDown").encode())
        elif fault == "500":
            self._answer(500, _ERROR.format(code="InternalError").encode())
        else:
            return False
        return True

    def _answer(self, status: int, body: bytes, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.send_header("ETag", '"0"')
        self.end_headers()
        self.wfile.write(body)
        self.close_connection |= length is not None and length != len(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def failing_store() -> Iterator[FailingStore]:
    with FailingStore() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
