"""A traced string is the same text as the plain one would be, and knows where each character came from."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.chat.json_text import to_json
from pipeline.chat.traced import Field, Origin, Run, Traced, concat
from pipeline.chat.traced_values import trace

BODY, NAME = Origin(0, Field.BODY), Origin(1, Field.OTHER)
TEXT = st.text(alphabet="ab \n\t,<>\u00e9\u4e16\u0130\u00df", max_size=12)

METHODS: dict[str, Callable[[str], object]] = {
    "strip": lambda s: s.strip(),
    "strip chars": lambda s: s.strip("ab"),
    "lstrip": lambda s: s.lstrip("\n"),
    "rstrip": lambda s: s.rstrip(),
    "removeprefix": lambda s: s.removeprefix("a"),
    "removesuffix": lambda s: s.removesuffix("b"),
    "split": lambda s: s.split(),
    "split sep": lambda s: s.split(","),
    "split max": lambda s: s.split(None, 1),
    "rsplit": lambda s: s.rsplit(None, 1),
    "rsplit sep": lambda s: s.rsplit("a", 1),
    "splitlines": lambda s: s.splitlines(),
    "splitlines ends": lambda s: s.splitlines(True),
    "partition": lambda s: s.partition("a"),
    "rpartition": lambda s: s.rpartition("a"),
    "replace": lambda s: s.replace("a", "xy"),
    "replace count": lambda s: s.replace("ab", "", 1),
    "replace nothing": lambda s: s.replace("", "-"),
    "upper": lambda s: s.upper(),
    "lower": lambda s: s.lower(),
    "title": lambda s: s.title(),
    "capitalize": lambda s: s.capitalize(),
    "slice": lambda s: s[1:-1],
    "step": lambda s: s[::-1],
    "times": lambda s: s * 3,
    "add": lambda s: s + "x",
    "radd": lambda s: "x" + s,
    "join": lambda s: s.join(["1", "2", "3"]),
    "center": lambda s: s.center(9, "*"),
    "ljust": lambda s: s.ljust(9),
    "rjust": lambda s: s.rjust(9),
    "list": lambda s: list(s),
    "str": lambda s: str(s),
}


def mixed(first: str, template: str, second: str) -> Traced:
    return concat((trace(first, BODY), template, trace(second, NAME)))


def check_runs(value: object) -> None:
    """Every string made is traced, and its runs cover it."""
    for item in value if isinstance(value, list | tuple) else [value]:
        assert isinstance(item, Traced)
        assert sum(run.length for run in item.runs) == len(item)


@pytest.mark.parametrize("name", METHODS)
@given(TEXT, TEXT, TEXT)
def test_methods_make_the_same_text(name: str, first: str, template: str, second: str) -> None:
    made = METHODS[name](mixed(first, template, second))
    assert made == METHODS[name](first + template + second)
    check_runs(made)


def origins(text: Traced) -> list[Origin | None]:
    return [run.origin for run in text.runs for _ in range(run.length)]


@given(TEXT, TEXT, TEXT)
def test_cuts_keep_each_characters_origin(first: str, template: str, second: str) -> None:
    """Each character carries its index as its origin, so that a cut can be checked character by character."""
    plain = first + template + second
    marked = concat(Traced(char, (Run(1, Origin(index, Field.BODY)),)) for index, char in enumerate(plain))
    for made in (
        marked.strip(),
        marked[2:5],
        *marked.split("a"),
        *marked.split(),
        marked[::-1],
        marked.replace("b", ""),
    ):
        for char, origin in zip(made.plain, origins(made), strict=True):
            assert origin is not None
            assert plain[origin.message] == char


def test_an_empty_field_leaves_its_place() -> None:
    text = concat(("<user>", trace("", BODY), "<end>"))
    assert text == "<user><end>"
    assert Run(0, BODY) in text.runs


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(JSON, st.booleans(), st.sampled_from([None, 0, 2, 4]), st.booleans())
def test_to_json_is_json_dumps(value: object, ascii_only: bool, indent: int | None, sort_keys: bool) -> None:
    made = to_json(trace(value, BODY), ensure_ascii=ascii_only, indent=indent, sort_keys=sort_keys)
    assert made == json.dumps(value, ensure_ascii=ascii_only, indent=indent, sort_keys=sort_keys)
    assert sum(run.length for run in made.runs) == len(made)


def test_json_of_row_values_is_row_text_as_a_whole() -> None:
    made = to_json(trace({"a": [1, 2.5, None], "b": "x\n"}, BODY))
    assert set(origins(made)) == {BODY}
    assert set(origins(to_json({"a": 1}))) == {None}
