"""Values of rows against the standard library's."""

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.readers.json_value import parse_value, parse_values

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


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from(["[%s]", '{"a":%s}', '{"a": %s }', "[1,%s]", '"%s"', "[0.%s]", "%s"]), min_size=1),
    st.lists(st.sampled_from([2**63, 2**64, -(2**63) - 1, 10**18, 10**40, 5]), min_size=1),
    st.lists(st.sampled_from([0, 1, 2, 3, 50, 300]), min_size=1),
)
def test_many_lines_give_what_each_gives_by_itself(shapes: list[str], numbers: list[int], gaps: list[int]) -> None:
    """Long integers anywhere, also at the very start and end, among text with few digits or many."""
    lines = []
    for index, shape in enumerate(shapes):
        filler = "x" if index % 2 else "1 "
        value = shape % str(numbers[index % len(numbers)]).removeprefix("-" if "0." in shape else " ")
        lines += [json.dumps(filler * gaps[index % len(gaps)]), value]
    encoded = [line.encode() for line in lines]
    assert repr(parse_values(encoded)) == repr(list(map(json.loads, lines)))


@pytest.mark.parametrize("before", ["", "[", "[-", "[ ", "[1,"])
@pytest.mark.parametrize("at", range(4))
def test_a_long_integer_is_seen_wherever_it_begins(before: str, at: int) -> None:
    """In data that is long enough to be looked at here and there only."""
    value = before + "9" * 19 + "]" * before.count("[")
    lines = [json.dumps("x" * (1000 + at)), value, json.dumps("x" * 1000)]
    assert repr(parse_values([line.encode() for line in lines])) == repr(list(map(json.loads, lines)))


@pytest.mark.parametrize(
    ("number", "said"),
    [
        ("9" * 5000, "infinity"),
        ("[" * 1000 + "9" * 19 + "]" * 1000, "100 levels"),
        ("9" * 19 + "x", "x"),
        ("NaN", "value"),
    ],
)
def test_what_cannot_be_read_is_a_value_error(number: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_value(b'{"id": ' + number.encode() + b"}")
