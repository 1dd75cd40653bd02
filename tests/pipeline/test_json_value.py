"""Values of rows against the standard library's."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.readers.json_value import parse_value

NUMBERS = st.integers() | st.sampled_from([2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**40])
LEAVES = NUMBERS | st.floats(allow_nan=False, allow_infinity=False) | st.text("1234567890-[,: \u00e9") | st.booleans()
VALUES = st.recursive(
    LEAVES | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text("19:"), inner), max_leaves=8
)


@given(VALUES, st.sampled_from([None, 1]), st.sampled_from([(",", ":"), (", ", " : ")]))
@example({"id": 2**64}, None, (",", ":"))
@example([-(2**63) - 1], 1, (",", ":"))
def test_values_and_their_kinds_are_those_of_the_standard_library(
    value: Any, indent: int | None, separators: tuple[str, str]
) -> None:
    text = json.dumps(value, indent=indent, separators=separators)
    assert repr(parse_value(text.encode())) == repr(json.loads(text))


@pytest.mark.parametrize(
    ("number", "said"),
    [("9" * 5000, "infinity"), ("[" * 1000 + "9" * 19 + "]" * 1000, "deeply"), ("9" * 19 + "x", "x"), ("NaN", "value")],
)
def test_what_cannot_be_read_is_a_value_error(number: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_value(b'{"id": ' + number.encode() + b"}")
