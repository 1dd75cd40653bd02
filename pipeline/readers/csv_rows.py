"""CSV with a header row. Quotes are strict, so that a stray one spoils as few rows as it can."""

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, islice
from sys import maxsize

from pipeline.blocks import SourceFile, Stretch
from pipeline.readers.lines import BOM, Line, cut_lines
from pipeline.readers.records import Built, Records, Row, build_each
from pipeline.readers.stream import read_chunks
from schemas.errors import DatasetError
from schemas.rejects import Reason, RejectRow

_ROWS = 256
"""So many are handed on together."""


class _CsvLines(Iterator[str]):
    """Lines as the csv module wants them, bytes that are not UTF-8 as lone surrogates. `taken` counts the bytes of
    the row being read; past `max_bytes` of them a RejectRow is raised."""

    def __init__(self, lines: Iterator[Line], max_bytes: int) -> None:
        self._lines = lines
        self._max_bytes = max_bytes
        self.taken = 0

    def __next__(self) -> str:
        line = next(self._lines)
        self.taken += line.size
        data = line.content()
        if self.taken > self._max_bytes:
            raise RejectRow(
                Reason.LINE_TOO_LONG, f"a row of more than {self._max_bytes} bytes, which is max_line_bytes"
            )
        text = data if line.begin else data.removeprefix(BOM)
        return text.decode(errors="surrogateescape") + "\n"


def read_csv(stretch: Stretch, max_line_bytes: int) -> Iterator[Records]:
    """Raises DatasetError for a header that cannot be used."""
    csv.field_size_limit(max(csv.field_size_limit(), max_line_bytes))
    lines = chain.from_iterable(cut_lines(read_chunks(stretch.file), 0, maxsize, max_line_bytes))
    rows = _read_rows(_CsvLines(lines, max_line_bytes))
    _, header = next(rows, (0, []))
    names = _check_header(stretch.file, header)
    position = 0
    while group := list(islice(rows, _ROWS)):
        sizes, fields = zip(*group, strict=True)
        yield Records(range(position, position + len(group)), sizes, partial(_build, names, fields))
        position += len(group)


def _read_rows(lines: _CsvLines) -> Iterator[tuple[int, list[str] | RejectRow]]:
    """Each row's bytes and fields; after a bad row the reader goes on with the next line."""
    reader = csv.reader(lines, strict=True)
    while True:
        lines.taken = 0
        fields: list[str] | RejectRow
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fields = RejectRow(Reason.INVALID_CSV, f"{error}, in {lines.taken} bytes")
        except RejectRow as reject:
            fields = reject
        if fields != []:
            yield lines.taken, fields


def _check_header(file: SourceFile, header: list[str] | RejectRow) -> list[str]:
    if isinstance(header, RejectRow):
        raise DatasetError(f"{file.url}: the header row cannot be read: {header.detail}; mend the file's first line")
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise DatasetError(f"{file.url}: the header row names the column {twice[0]!r} twice; rename one of them")
    return header


def _build(names: list[str], fields: Sequence[list[str] | RejectRow], start: int, stop: int) -> Built:
    return build_each(fields[start:stop], partial(_parse, names))


def _parse(names: list[str], fields: list[str] | RejectRow) -> Row:
    if isinstance(fields, RejectRow):
        raise fields
    if len(fields) != len(names):
        raise RejectRow(Reason.INVALID_CSV, f"{len(fields)} fields, the header has {len(names)}")
    try:
        "".join(fields).encode()
    except UnicodeEncodeError:
        raise RejectRow(Reason.INVALID_UTF8, "not UTF-8") from None
    return dict(zip(names, fields, strict=True))
