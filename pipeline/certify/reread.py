"""Sampled lines of JSONL, read once more and parsed by json.loads."""

import json
from collections.abc import Collection, Iterator
from itertools import chain
from sys import maxsize
from typing import Any

from pipeline.blocks import SourceFile
from pipeline.readers.files import open_file
from pipeline.readers.lines import cut_lines
from pipeline.readers.stream import read_chunks


def read_again(file: SourceFile, positions: Collection[int], max_line_bytes: int) -> dict[int, Any]:
    """The row at each position, or None where json.loads fails on it. Raises SourceChanged."""
    lines = _stream_lines if file.compression else _seek_lines
    return {position: _parse(line) for position, line in lines(file, sorted(positions), max_line_bytes)}


def _seek_lines(file: SourceFile, positions: list[int], max_line_bytes: int) -> Iterator[tuple[int, bytes]]:
    with open_file(file) as stream:
        for position in positions:
            stream.seek(position)
            yield position, stream.readline(max_line_bytes + 1)


def _stream_lines(file: SourceFile, positions: list[int], max_line_bytes: int) -> Iterator[tuple[int, bytes]]:
    """A compressed file, from its start through the last position."""
    wanted = set(positions)
    for line in chain.from_iterable(cut_lines(read_chunks(file), 0, maxsize, max_line_bytes)):
        if line.begin in wanted and line.data is not None:
            yield line.begin, line.data
        if line.begin >= positions[-1]:
            return


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
