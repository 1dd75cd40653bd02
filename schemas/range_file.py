"""A file on a store, read by ranges: one request a block, and none for what was read before or is passed over."""

import io
from collections.abc import Callable
from typing import Any

BLOCK = 8 * 2**20
"""Bytes asked for at a time: a store far away takes longer over the bytes than over the request."""
BEYOND = 2**18
"""Bytes asked for at a time past the expected end."""


def open_ranges(read: Callable[[int, int], bytes], size: int, expected_end: int | None = None) -> io.BufferedReader:
    """A file of `size` bytes, of which read(start, end) gives [start, end). It may be read past `expected_end`, but
    hardly is."""
    raw = _RangeReader(read, size, size if expected_end is None else expected_end)
    return io.BufferedReader(raw, max(1, min(BLOCK, size)))


class _RangeReader(io.RawIOBase):
    def __init__(self, read: Callable[[int, int], bytes], size: int, expected_end: int) -> None:
        self._read = read
        self._size = size
        self._expected_end = expected_end
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        begin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, begin + offset)
        return self._position

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self.read(BLOCK), b""))

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        start = self._position
        left = self._expected_end - start
        end = min(start + min(len(target), left if left > 0 else BEYOND), self._size)
        if end <= start:
            return 0
        target[: end - start] = self._read(start, end)
        self._position = end
        return end - start
