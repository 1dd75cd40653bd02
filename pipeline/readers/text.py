"""Plain text: a document a line, or a document a file. Either way a row is {"text": ...}."""

from collections.abc import Iterator
from functools import partial

from pipeline.blocks import Stretch
from pipeline.readers.lines import BOM, Line, decode_utf8, read_lines
from pipeline.readers.record import Record
from pipeline.readers.stream import read_at_most
from schemas.rejects import Reason, RejectRow


def read_text(stretch: Stretch, max_line_bytes: int) -> Iterator[Record]:
    if stretch.file.text_unit == "file":
        data = read_at_most(stretch.file, max_line_bytes)
        size = stretch.file.size if data is None else len(data)
        yield Record(0, size, partial(_parse_file, data, max_line_bytes))
        return
    for line in read_lines(stretch, max_line_bytes):
        yield Record(line.begin, line.size, partial(_parse_line, line))


def _parse_line(line: Line) -> dict[str, str]:
    return {"text": decode_utf8(line.content())}


def _parse_file(data: bytes | None, max_bytes: int) -> dict[str, str]:
    if data is None:
        raise RejectRow(Reason.LINE_TOO_LONG, f"a document of more than {max_bytes} bytes, which is max_line_bytes")
    return {"text": decode_utf8(data.removeprefix(BOM))}
