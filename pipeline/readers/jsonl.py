"""JSONL: an object a line; of a key given twice, the last counts."""

from collections.abc import Iterator
from functools import partial
from typing import Any, cast

from pipeline.blocks import Stretch
from pipeline.readers.json_depth import TOO_DEEP, is_deep
from pipeline.readers.json_value import parse_value, parse_values
from pipeline.readers.lines import Line, Lines, decode_utf8, read_lines
from pipeline.readers.records import Built, Records, Row, build_each
from schemas.rejects import Reason, RejectRow


def read_jsonl(stretch: Stretch, max_line_bytes: int) -> Iterator[Records]:
    for lines in read_lines(stretch, max_line_bytes):
        yield Records(lines.begins, lines.sizes, partial(_parse_lines, lines))


def _parse_lines(lines: Lines, start: int, stop: int) -> Built:
    """All at once; where one of them is no object, each by itself."""
    data = lines.data[start:stop]
    if None not in data:
        try:
            values = parse_values(cast(list[bytes], data))
        except ValueError:
            values = [None]
        if all(type(value) is dict for value in values):
            return Built(values, {})
    return build_each(lines.between(start, stop), _parse)


def _parse(line: Line) -> Row:
    data = line.content()
    try:
        value = parse_value(data)
    except ValueError as error:
        decode_utf8(data)
        raise RejectRow(Reason.INVALID_JSON, str(error)) from None
    return as_object(value)


def as_object(value: Any) -> Row:
    """Raises RejectRow for a JSON value of another kind, or nested too deeply."""
    if not isinstance(value, dict):
        raise RejectRow(Reason.NOT_AN_OBJECT, f"a row is a JSON object, this is a {type(value).__name__}")
    if is_deep(value):
        raise RejectRow(Reason.INVALID_JSON, TOO_DEEP)
    return value
