"""JSON as rows have it: orjson's values, but integers of any size."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from pipeline.readers.json_depth import TOO_DEEP, is_deep, may_be_deep_lines

_SHAPES = bytes.maketrans(b"123456789,[-\t\n\r ", b"0" * 9 + b":" * 7)
_LONG = b":" + b"0" * 19
"""An integer beyond 64 bits, of which orjson makes a float, has this in its shape; so has some text."""
_STEP = 4
"""Every 4th byte is looked at first: wherever they begin, 19 digits hold four of them."""


def parse_value(data: bytes) -> Any:
    """Raises ValueError for what is no JSON and for a number beyond a double."""
    value = orjson.loads(data)
    if _LONG not in (b":" + data).translate(_SHAPES):
        return value
    if is_deep(value):
        raise ValueError(TOO_DEEP)
    return json.loads(data)


def parse_values(lines: Sequence[bytes]) -> list[Any]:
    """The values of many lines, as parse_value has each. Raises ValueError where one of them cannot be read, or is
    nested too deeply."""
    parse = parse_value if _may_be_long(b"\n".join([b"", *lines])) else orjson.loads
    values = [parse(line) for line in lines]
    if any(is_deep(values[line]) for line in may_be_deep_lines(lines)):
        raise ValueError(TOO_DEEP)
    return values


def _may_be_long(data: bytes) -> bool:
    """Whether the data has the shape of a long integer in it. Looked at closely is only what is near many digits."""
    digits = np.frombuffer(data, np.uint8)[::_STEP] - np.uint8(ord("0")) < 10  # below "0" the difference wraps around
    near = _STEP * np.flatnonzero(digits[:-3] & digits[1:-2] & digits[2:-1] & digits[3:])
    if len(near) < len(data) // 64:
        data = b"".join(data[max(at - _STEP, 0) : at + 19] for at in near.tolist())
    return _LONG in data.translate(_SHAPES)
