"""Line splitting: any bytes, any cut, every line once."""

import gzip
import io
import tracemalloc
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.blocks import RowBlock, SourceFile, Stretch, Unit
from pipeline.readers import read_blocks
from pipeline.readers.lines import cut_lines, lines_between
from schemas.rejects import Reason

NO_LIMIT = 2**40
BREAKS = ["\n", "\r\n", "\r", "\x0b", "\x0c", "\x85", "\u2028", "\n\n", " \n", "\t\r\n", "a", "bc", "\u00e9", "\ufeff"]
TEXTS = st.lists(st.sampled_from(BREAKS), max_size=40).map("".join)

NEWLINE_ZOO = "a\r\nb\rc\x0bd\x0ce\x85f\u2028g\n\n \n\r\nh\n\u00e9"


def slow_lines(data: bytes) -> list[tuple[int, bytes]]:
    """The obvious way: position and content of every line that is not blank."""
    found, at = [], 0
    for line in data.split(b"\n"):
        content = line.removesuffix(b"\r")
        if at == 0:
            content = content.removeprefix(b"\xef\xbb\xbf")
        if content.strip(b" \t\r"):
            found.append((at, content))
        at += len(line) + 1
    return found


def cut_into_units(path: Path, size: int, range_bytes: int) -> list[Unit]:
    status = path.stat()
    file = SourceFile(str(path), 0, "text", None, status.st_size, None, str(status.st_mtime_ns))
    starts = range(0, max(size, 1), range_bytes)
    return [
        Unit(index, (Stretch(0, file, start, min(start + range_bytes, size)),)) for index, start in enumerate(starts)
    ]


def check_numbering(blocks: list[RowBlock]) -> None:
    assert [block.key.block for block in blocks] == list(range(len(blocks)))
    assert [block.key.last for block in blocks] == [False] * (len(blocks) - 1) + [True]


def lines_of(blocks: list[RowBlock]) -> list[tuple[int, bytes]]:
    assert all(len(block.rows) == len(block.positions) == len(block.sources) for block in blocks)
    return [
        (position, row["text"].encode())
        for block in blocks
        for position, row in zip(block.positions, block.rows, strict=True)
    ]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lines") / "lines.txt"


def test_the_slow_reference_knows_one_newline_only() -> None:
    positions = [position for position, _ in slow_lines(NEWLINE_ZOO.encode())]
    assert len(positions) == 4
    assert len(NEWLINE_ZOO.splitlines()) > 8


@settings(deadline=None, max_examples=300)
@given(text=TEXTS, range_bytes=st.integers(1, 60), block_bytes=st.integers(1, 60))
def test_every_line_is_in_one_range_and_one_block(scratch: Path, text: str, range_bytes: int, block_bytes: int) -> None:
    data = text.encode()
    scratch.write_bytes(data)
    found = []
    for unit in cut_into_units(scratch, len(data), range_bytes):
        blocks = list(read_blocks(unit, block_bytes, NO_LIMIT))
        check_numbering(blocks)
        assert {block.key.unit for block in blocks} == {unit.index}
        assert not any(block.rejects for block in blocks)
        found += lines_of(blocks)
    assert found == slow_lines(data)


@settings(deadline=None, max_examples=100)
@given(text=TEXTS, block_bytes=st.integers(1, 40), skipped=st.sets(st.integers(0, 12)))
def test_skipping_changes_no_other_block(scratch: Path, text: str, block_bytes: int, skipped: set[int]) -> None:
    scratch.write_bytes(text.encode())
    (unit,) = cut_into_units(scratch, len(text.encode()), NO_LIMIT)
    every = list(read_blocks(unit, block_bytes, NO_LIMIT))
    assert list(read_blocks(unit, block_bytes, NO_LIMIT, skipped.__contains__)) == [
        block for block in every if block.key.block not in skipped
    ]


@settings(deadline=None)
@given(
    data=st.lists(st.sampled_from([b"\n", b"ab", b"c" * 9, b"d" * 30]), max_size=30).map(b"".join),
    chunk=st.integers(1, 50),
    limit=st.integers(0, 40),
)
def test_any_chunks_give_the_same_lines(data: bytes, chunk: int, limit: int) -> None:
    chunks = (data[at : at + chunk] for at in range(0, len(data), chunk))
    lines = list(chain.from_iterable(cut_lines(chunks, 0, NO_LIMIT, limit)))
    assert sum(line.size for line in lines) == len(data)
    ended = data.split(b"\n") if not data.endswith(b"\n") else data.split(b"\n")[:-1]
    assert [line.data for line in lines] == [line if len(line) <= limit else None for line in (ended if data else [])]
    assert [data[line.begin : line.begin + line.size].rstrip(b"\n") for line in lines] == (ended if data else [])


def test_a_block_ends_with_the_line_that_fills_it(scratch: Path) -> None:
    scratch.write_bytes(b"123\n" * 5)
    (unit,) = cut_into_units(scratch, 20, NO_LIMIT)
    assert [block.bytes for block in read_blocks(unit, 8, NO_LIMIT)] == [8, 8, 4]
    assert [block.bytes for block in read_blocks(unit, 7, NO_LIMIT)] == [8, 8, 4]


def test_a_unit_of_one_range_is_one_block(scratch: Path) -> None:
    data = b"".join(b"%d" % number * 7 + b"\n" for number in range(1000))
    scratch.write_bytes(data)
    units = cut_into_units(scratch, len(data), 1000)
    assert len(units) > 10
    assert all(len(list(read_blocks(unit, 1000, NO_LIMIT))) == 1 for unit in units)


def test_a_range_without_a_beginning_of_a_line_is_one_empty_block(scratch: Path) -> None:
    data = b"x" * 1000 + b"\ny"
    scratch.write_bytes(data)
    blocks = [list(read_blocks(unit, 100, NO_LIMIT)) for unit in cut_into_units(scratch, len(data), 100)]
    assert [sum(len(block.rows) for block in unit) for unit in blocks] == [1, *[0] * 9, 1]
    assert all(len(unit) == 1 and unit[0].key.last for unit in blocks)


@pytest.mark.parametrize("repeats", [50, 30_000])
@pytest.mark.parametrize("name", ["lines.txt.gz", "lines.txt.zst"])
def test_compressed_lines_are_those_of_the_plain_file(tmp_path: Path, name: str, repeats: int) -> None:
    half = "".join(f"{NEWLINE_ZOO}{number}\n" for number in range(repeats)).encode()
    compress = gzip.compress if name.endswith(".gz") else zstandard.ZstdCompressor().compress
    path = tmp_path / name
    path.write_bytes(compress(half) + compress(half))
    status = path.stat()
    kind = "gzip" if name.endswith(".gz") else "zstd"
    file = SourceFile(str(path), 0, "text", kind, status.st_size, None, str(status.st_mtime_ns))
    blocks = list(read_blocks(Unit(0, (Stretch(0, file, 0, status.st_size),)), repeats, NO_LIMIT))
    check_numbering(blocks)
    assert len(blocks) > 10
    assert lines_of(blocks) == slow_lines(half + half)


def test_an_overlong_line_is_a_reject_and_the_next_line_a_row(scratch: Path) -> None:
    data = b"one\n" + b"x" * 101 + b"\n" + b"y" * 100 + b"\nlast"
    scratch.write_bytes(data)
    (unit,) = cut_into_units(scratch, len(data), NO_LIMIT)
    (block,) = read_blocks(unit, NO_LIMIT, 100)
    assert lines_of([block]) == [(0, b"one"), (106, b"y" * 100), (207, b"last")]
    assert [(reject.position, reject.reason) for reject in block.rejects] == [(4, Reason.LINE_TOO_LONG)]
    assert block.bytes == len(data)


class EndlessLine(io.RawIOBase):
    """`length` times x, then a short line; nothing of it exists before it is read."""

    def __init__(self, length: int) -> None:
        self.at, self.length, self.seen = 0, length, 0

    def seek(self, offset: int, whence: int = 0) -> int:
        assert whence == 0
        self.at = offset
        return offset

    def read(self, size: int = -1) -> bytes:
        assert size > 0
        tail = b"\nshort\n"
        got = b"x" * min(size, max(self.length - self.at, 0))
        got = got or tail[self.at - self.length : self.at - self.length + size]
        self.at += len(got)
        self.seen += len(got)
        return got


def read_stream(stream: EndlessLine, start: int, end: int) -> Iterator[tuple[int, int, bytes | None]]:
    return (tuple(line) for lines in lines_between(stream, start, end, 2**20) for line in lines)


def test_an_overlong_line_is_not_held() -> None:
    length = 200 * 2**20
    tracemalloc.start()
    lines = list(read_stream(EndlessLine(length), 0, length + 7))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert lines == [(0, length + 1, None), (length + 1, 6, b"short")]
    assert peak < 8 * 2**20


def test_a_range_within_an_overlong_line_is_read_no_further_than_its_end() -> None:
    stream = EndlessLine(2**40)
    assert list(read_stream(stream, 2**30, 2**30 + 2**22)) == []
    assert 0 < stream.seen <= 2**22 + 1
