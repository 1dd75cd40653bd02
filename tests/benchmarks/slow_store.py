"""An HTTP proxy in front of an S3 server that is far away: each request waits, and all share one line.

    python slow_store.py PORT SERVER_PORT LATENCY_SECONDS BYTES_PER_SECOND

GET /-/counts gives {"requests": ..., "bytes": ...} of the shards so far.
"""

import http.client
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COUNTS = "/-/counts"
PIECE = 128 << 10
_DROPPED = {"connection", "transfer-encoding", "content-length", "keep-alive"}


class Line:
    """Bytes go one after the other, at a rate."""

    def __init__(self, rate: float) -> None:
        self._rate, self._free, self._lock = rate, 0.0, threading.Lock()

    def carry(self, size: int) -> None:
        with self._lock:
            self._free = max(self._free, time.monotonic()) + size / self._rate
            until = self._free
        time.sleep(max(0.0, until - time.monotonic()))


class Proxy(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port: int, upstream: int, latency: float, rate: float) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.upstream, self.latency, self.line = upstream, latency, Line(rate)
        self.lock, self.counts = threading.Lock(), {"requests": 0, "bytes": 0}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Proxy

    def do_GET(self) -> None:
        if self.path == COUNTS:
            self._answer(200, [], json.dumps(self.server.counts).encode())
            return
        time.sleep(self.server.latency)
        connection = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=60)
        connection.request(
            "GET", self.path, headers={n: v for n, v in self.headers.items() if n.lower() != "connection"}
        )
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        if "/shards/" in self.path:
            with self.server.lock:
                self.server.counts["requests"] += 1
                self.server.counts["bytes"] += len(data)
        self._answer(answer.status, answer.getheaders(), data)

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in _DROPPED:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        for start in range(0, len(data), PIECE):
            piece = data[start : start + PIECE]
            self.server.line.carry(len(piece))
            self.wfile.write(piece)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


if __name__ == "__main__":
    port, upstream, latency, rate = sys.argv[1:]
    Proxy(int(port), int(upstream), float(latency), float(rate)).serve_forever()
