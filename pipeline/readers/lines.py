"""Lines, cut at `\\n` and nowhere else, in memory bounded by the longest line that is allowed."""

from collections.abc import Iterable, Iterator
from sys import maxsize
from typing import BinaryIO, NamedTuple

from pipeline.blocks import Stretch
from pipeline.readers.files import open_file
from pipeline.readers.stream import CHUNK, chunks_of, read_chunks
from schemas.rejects import Reason, RejectRow

BOM = b"\xef\xbb\xbf"
_BLANK = b" \t\r"


class Line(NamedTuple):
    """`begin` and `size` in bytes of the uncompressed file, the `\\n` counted. `data` is None for a line longer than
    is allowed."""

    begin: int
    size: int
    data: bytes | None

    def content(self) -> bytes:
        """Raises RejectRow."""
        if self.data is None:
            raise RejectRow(Reason.LINE_TOO_LONG, f"a line of {self.size} bytes, more than max_line_bytes")
        return self.data


def read_lines(stretch: Stretch, max_bytes: int) -> Iterator[Line]:
    """The lines that begin in the stretch and are not blank, without their line end and the file's byte order mark."""
    for begin, size, data in _read_stretch(stretch, max_bytes):
        if data is not None:
            data = data.removesuffix(b"\r")
            if begin == 0:
                data = data.removeprefix(BOM)
        if data is None or data.strip(_BLANK):
            yield Line(begin, size, data)


def _read_stretch(stretch: Stretch, max_bytes: int) -> Iterator[Line]:
    if stretch.file.compression:
        yield from split_lines(read_chunks(stretch.file), 0, maxsize, max_bytes)
        return
    with open_file(stretch.file) as stream:
        yield from lines_between(stream, stretch.start, stretch.end, max_bytes)


def lines_between(stream: BinaryIO, start: int, end: int, max_bytes: int) -> Iterator[Line]:
    """The lines that begin in [start, end), the last one read to its end."""
    begin = _first_line(stream, start, end)
    if begin < end:
        stream.seek(begin)
        yield from split_lines(chunks_of(stream, CHUNK), begin, end, max_bytes)


def _first_line(stream: BinaryIO, start: int, end: int) -> int:
    """Where the first line at or after `start` begins; `end` where none begins before it."""
    if start == 0:
        return 0
    at = start - 1
    stream.seek(at)
    while at < end and (chunk := stream.read(min(CHUNK, end - at))):
        newline = chunk.find(b"\n")
        if newline >= 0:
            return at + newline + 1
        at += len(chunk)
    return end


def split_lines(chunks: Iterable[bytes], begin: int, end: int, max_bytes: int) -> Iterator[Line]:
    """The lines that begin before `end`, the first at `begin`, blank ones too. Holds `max_bytes` and one chunk."""
    held: list[bytes] = []
    length = 0
    for chunk in chunks:
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            length += len(piece)
            yield Line(begin, length + 1, b"".join([*held, piece]) if length <= max_bytes else None)
            held.clear()
            begin, length = begin + length + 1, 0
            if begin >= end:
                return
        held.append(rest)
        length += len(rest)
        if length > max_bytes:
            held.clear()
    if length:
        yield Line(begin, length, b"".join(held) if length <= max_bytes else None)


def decode_utf8(data: bytes) -> str:
    """Raises RejectRow, with the place of the first wrong byte in the row."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise RejectRow(Reason.INVALID_UTF8, f"not UTF-8 at byte {error.start}: {error.reason}") from None
