"""JSON as rows have it: orjson's values, but integers of any size."""

import json
from typing import Any

import orjson

_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
_LONG = b"0" * 19
"""So many digits in a row may be an integer beyond 64 bits, of which orjson makes a float."""


def parse_value(data: bytes) -> Any:
    """Raises ValueError for what is no JSON, for a number beyond a double and for too many levels."""
    value = orjson.loads(data)
    if _LONG not in data.translate(_ZEROS):
        return value
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
