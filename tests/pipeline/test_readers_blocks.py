"""Blocks of JSONL that is read chunk by chunk are those of a reader that goes line by line, rejects and all."""

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.blocks import BlockKey, RowBlock, SourceFile, Stretch, Unit
from pipeline.readers import read_blocks
from schemas.rejects import Reason, Reject

LINES = st.lists(
    st.sampled_from(
        [
            b'{"n": 1}',
            b'{"text": "' + b"x" * 30 + b'"}',
            b'{"id": 18446744073709551616}',
            b'{"id": "18446744073709551616", "f": 3.141592653589793238462}',
            b'{"n": 1, "n": -9223372036854775809}\r',
            b'\xef\xbb\xbf{"n": 2}',
            b'{"n": 3',
            b'{"n": "\xff"}',
            b'{"n": NaN}',
            b"[123456789012345678901]",
            b"123456789012345678901",
            b"null",
            b"",
            b"\r",
            b" \t\r",
            b'{"long": "' + b"y" * 60 + b'"}\r',
            b"z" * 200,
        ]
    ),
    max_size=25,
)


def slow_row(line: bytes) -> dict[str, Any] | tuple[Reason, str]:
    try:
        value = orjson.loads(line)
    except ValueError as error:
        try:
            line.decode()
        except UnicodeDecodeError as wrong:
            return Reason.INVALID_UTF8, f"not UTF-8 at byte {wrong.start}: {wrong.reason}"
        return Reason.INVALID_JSON, str(error)
    value = json.loads(line)
    if isinstance(value, dict):
        return value
    return Reason.NOT_AN_OBJECT, f"a row is a JSON object, this is a {type(value).__name__}"


def slow_lines(data: bytes, start: int, end: int, max_bytes: int) -> Iterator[tuple[int, int, Any]]:
    """Place, size and row or reject of the lines that begin in [start, end) and are not blank."""
    at = 0
    while at < len(data):
        stop = data.find(b"\n", at)
        line, after = (data[at:], len(data)) if stop < 0 else (data[at:stop], stop + 1)
        content = line.removesuffix(b"\r")
        content = content.removeprefix(b"\xef\xbb\xbf") if at == 0 else content
        if start <= at < end and (len(line) > max_bytes or content.strip(b" \t\r")):
            too_long = (Reason.LINE_TOO_LONG, f"a line of {after - at} bytes, more than max_line_bytes")
            yield at, after - at, too_long if len(line) > max_bytes else slow_row(content)
        at = after


def slow_blocks(
    data: bytes, unit: Unit, block_bytes: int, max_bytes: int, skip: Callable[[int], bool]
) -> list[RowBlock]:
    lines = [
        (stretch.source, *line)
        for stretch in unit.stretches
        for line in slow_lines(data, stretch.start, stretch.end, max_bytes)
    ]
    blocks = [RowBlock(BlockKey(unit.index, 0, False), rows=[])]
    for source, position, size, row in lines[: unit.limit]:
        if blocks[-1].bytes >= block_bytes:
            blocks.append(RowBlock(BlockKey(unit.index, len(blocks), False), rows=[]))
        block = blocks[-1]
        block.bytes += size
        if isinstance(row, dict):
            block.sources.append(source)
            block.positions.append(position)
            block.rows = [*block.rows, row]
        else:
            block.rejects.append(Reject(source, position, *row))
    blocks[-1].key = replace(blocks[-1].key, last=True)
    return [block for block in blocks if not skip(block.key.block)]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("blocks")


@settings(deadline=None, max_examples=400)
@given(
    lines=LINES,
    cuts=st.lists(st.integers(0, 900), max_size=3),
    chunk=st.integers(1, 300),
    block_bytes=st.integers(1, 400),
    max_bytes=st.sampled_from([20, 70, 199, 200, 10_000]),
    limit=st.none() | st.integers(1, 12),
    skipped=st.sets(st.integers(0, 6)),
    compressed=st.booleans(),
)
@example([b"z" * 200, b'{"n": 1}'], [], 64, 99, 200, None, set(), False)
@example([b"z" * 200, b'{"n": 1}'], [], 64, 99, 199, None, set(), True)
def test_blocks_are_those_of_a_reader_that_goes_line_by_line(
    scratch: Path,
    lines: list[bytes],
    cuts: list[int],
    chunk: int,
    block_bytes: int,
    max_bytes: int,
    limit: int | None,
    skipped: set[int],
    compressed: bool,
) -> None:
    data = b"\n".join(lines)
    path = scratch / "rows.jsonl"
    path.write_bytes(gzip.compress(data) if compressed else data)
    status = path.stat()
    kind = "gzip" if compressed else None
    file = SourceFile(str(path), 0, "jsonl", kind, status.st_size, None, str(status.st_mtime_ns))
    edges = [0, len(data)] if compressed else sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    ranges = pairwise(edges) if data else [(0, 0)]
    unit = Unit(5, tuple(Stretch(source, file, *between) for source, between in enumerate(ranges)), limit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.readers.lines.CHUNK", chunk)
        patch.setattr("pipeline.readers.stream.CHUNK", chunk)
        found = list(read_blocks(unit, block_bytes, max_bytes, skipped.__contains__))
    assert repr(found) == repr(slow_blocks(data, unit, block_bytes, max_bytes, skipped.__contains__))


def test_the_slow_reader_sees_every_kind_of_row(scratch: Path) -> None:
    data = b'{"id": 18446744073709551616}\n{"n": 3\n\xff\n2\n\n' + b"z" * 50
    found = [row if isinstance(row, dict) else row[0] for _, _, row in slow_lines(data, 0, len(data), 40)]
    assert found == [
        {"id": 2**64},
        Reason.INVALID_JSON,
        Reason.INVALID_UTF8,
        Reason.NOT_AN_OBJECT,
        Reason.LINE_TOO_LONG,
    ]
