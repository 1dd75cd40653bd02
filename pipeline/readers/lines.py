"""Lines, cut at `\\n` and nowhere else, in memory bounded by the longest line that is allowed.

They are cut a chunk at a time: a step of Python for every line would cost more than parsing it.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, compress
from sys import maxsize
from typing import BinaryIO, NamedTuple

from pipeline.blocks import Stretch
from pipeline.readers.files import open_file
from pipeline.readers.stream import CHUNK, chunks_of, read_chunks
from schemas.rejects import Reason, RejectRow

BOM = b"\xef\xbb\xbf"
_BLANK = b" \t\r"


class Line(NamedTuple):
    """`begin` and `size` in bytes of the uncompressed file, the `\\n` counted. `data` is without it; it is None for
    a line longer than is allowed."""

    begin: int
    size: int
    data: bytes | None

    def content(self) -> bytes:
        """Raises RejectRow."""
        if self.data is None:
            raise RejectRow(Reason.LINE_TOO_LONG, f"a line of {self.size} bytes, more than max_line_bytes")
        return self.data


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines of a file, one after the other: parallel lists of what a Line has."""

    begins: list[int]
    sizes: list[int]
    data: list[bytes | None]

    def __iter__(self) -> Iterator[Line]:
        return map(Line, self.begins, self.sizes, self.data)

    def between(self, start: int, stop: int) -> "Lines":
        return Lines(self.begins[start:stop], self.sizes[start:stop], self.data[start:stop])


def read_lines(stretch: Stretch, max_bytes: int) -> Iterator[Lines]:
    """The lines that begin in the stretch and are not blank, without their line end and the file's byte order mark."""
    for lines in _read_stretch(stretch, max_bytes):
        data = lines.data
        if any(line is not None and line.endswith(b"\r") for line in data):
            data = [line and line.removesuffix(b"\r") for line in data]
        if lines.begins[0] == 0:
            data = [data[0] and data[0].removeprefix(BOM), *data[1:]]
        kept = [line is None or bool(line.strip(_BLANK)) for line in data]
        if all(kept):
            yield Lines(lines.begins, lines.sizes, data)
        elif any(kept):
            begins, sizes = list(compress(lines.begins, kept)), list(compress(lines.sizes, kept))
            yield Lines(begins, sizes, list(compress(data, kept)))


def _read_stretch(stretch: Stretch, max_bytes: int) -> Iterator[Lines]:
    if stretch.file.compression:
        yield from cut_lines(read_chunks(stretch.file), 0, maxsize, max_bytes)
        return
    with open_file(stretch.file, stretch.end) as stream:
        yield from lines_between(stream, stretch.start, stretch.end, max_bytes)


def lines_between(stream: BinaryIO, start: int, end: int, max_bytes: int) -> Iterator[Lines]:
    """The lines that begin in [start, end), the last one read to its end."""
    begin = _first_line(stream, start, end)
    if begin < end:
        stream.seek(begin)
        yield from cut_lines(chunks_of(stream, CHUNK), begin, end, max_bytes)


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


def cut_lines(chunks: Iterable[bytes], begin: int, end: int, max_bytes: int) -> Iterator[Lines]:
    """The lines that begin before `end`, the first at `begin`, blank ones too; those that end in one chunk together.
    Holds `max_bytes` and one chunk."""
    held: list[bytes] = []
    length = 0
    for chunk in chunks:
        ended = chunk.split(b"\n")
        rest = ended.pop()
        if ended:
            sizes = [len(line) + 1 for line in ended]
            sizes[0] += length
            if length <= max_bytes:
                ended[0] = b"".join([*held, ended[0]])
            held.clear()
            *begins, begin = accumulate(sizes, initial=begin)
            count = bisect_left(begins, end)
            yield Lines(begins[:count], sizes[:count], _bounded(ended, sizes[:count], max_bytes))
            if begin >= end:
                return
            length = 0
        held.append(rest)
        length += len(rest)
        if length > max_bytes:
            held.clear()
    if length:
        yield Lines([begin], [length], [b"".join(held) if length <= max_bytes else None])


def _bounded(lines: Sequence[bytes], sizes: Sequence[int], max_bytes: int) -> list[bytes | None]:
    """The lines of these sizes, which count the line end; None for those of more than `max_bytes`."""
    return [line if size <= max_bytes + 1 else None for line, size in zip(lines, sizes, strict=False)]


def decode_utf8(data: bytes) -> str:
    """Raises RejectRow, with the place of the first wrong byte in the row."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise RejectRow(Reason.INVALID_UTF8, f"not UTF-8 at byte {error.start}: {error.reason}") from None
