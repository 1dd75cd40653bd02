"""Plain text: a document a line, or a document a file. Either way a row is {"text": ...}."""

from collections.abc import Iterator
from functools import partial

from pipeline.blocks import Stretch
from pipeline.readers.lines import BOM, Line, Lines, decode_utf8, read_lines
from pipeline.readers.records import Built, Records, Row, build_each
from pipeline.readers.stream import read_at_most
from schemas.rejects import Reason, RejectRow


def read_text(stretch: Stretch, max_line_bytes: int) -> Iterator[Records]:
    if stretch.file.text_unit == "file":
        data = read_at_most(stretch.file, max_line_bytes)
        size = stretch.file.size if data is None else len(data)
        yield Records([0], [size], partial(_build_file, data, max_line_bytes))
        return
    for lines in read_lines(stretch, max_line_bytes):
        yield Records(lines.begins, lines.sizes, partial(_build_lines, lines))


def _build_lines(lines: Lines, start: int, stop: int) -> Built:
    return build_each(lines.between(start, stop), _parse_line)


def _parse_line(line: Line) -> Row:
    return {"text": decode_utf8(line.content())}


def _build_file(data: bytes | None, max_bytes: int, start: int, stop: int) -> Built:
    assert (start, stop) == (0, 1)
    return build_each([data], partial(_parse_file, max_bytes=max_bytes))


def _parse_file(data: bytes | None, max_bytes: int) -> Row:
    if data is None:
        raise RejectRow(Reason.LINE_TOO_LONG, f"a document of more than {max_bytes} bytes, which is max_line_bytes")
    return {"text": decode_utf8(data.removeprefix(BOM))}
