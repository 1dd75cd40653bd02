"""JSONL: an object a line; of a key given twice, the last counts."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from pipeline.blocks import Stretch
from pipeline.readers.json_value import parse_value
from pipeline.readers.lines import Line, decode_utf8, read_lines
from pipeline.readers.record import Record
from schemas.rejects import Reason, RejectRow


def read_jsonl(stretch: Stretch, max_line_bytes: int) -> Iterator[Record]:
    for line in read_lines(stretch, max_line_bytes):
        yield Record(line.begin, line.size, partial(_parse, line))


def _parse(line: Line) -> dict[str, Any]:
    data = line.content()
    try:
        value = parse_value(data)
    except ValueError as error:
        decode_utf8(data)
        raise RejectRow(Reason.INVALID_JSON, str(error)) from None
    return as_object(value)


def as_object(value: Any) -> dict[str, Any]:
    """Raises RejectRow for a JSON value of another kind."""
    if not isinstance(value, dict):
        raise RejectRow(Reason.NOT_AN_OBJECT, f"a row is a JSON object, this is a {type(value).__name__}")
    return value
