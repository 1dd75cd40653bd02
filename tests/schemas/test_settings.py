"""How a config is read: what is typed arrives, and what cannot be meant is refused with the key that was."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from schemas.errors import ConfigError
from schemas.settings import apply_override, load_settings, validate_settings


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    path: str
    limit: int | None = None


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    seq_len: int
    rate: float = 0.5
    inner: Inner | None = None
    sources: list[Inner] = []
    free: dict[str, Any] = {}


KEYS = st.text("abcdefgh_", min_size=1, max_size=5)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))  # what a config may hold
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))


def load(tmp_path: Path, text: str, *overrides: str) -> Outer:
    path = tmp_path / "config.yaml"
    path.write_text(text, "utf-8")
    return load_settings(Outer, path, overrides)


def refusal(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, *overrides)
    return str(caught.value)


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    text = "seq_len: 8\nrate: 1e-3\ninner: {path: \u00fc.jsonl, limit: 3}\nsources:\n- path: a\n- path: b\n"
    assert load(tmp_path, text).model_dump(exclude={"free"}) == {
        "seq_len": 8,
        "rate": 0.001,
        "inner": {"path": "\u00fc.jsonl", "limit": 3},
        "sources": [{"path": "a", "limit": None}, {"path": "b", "limit": None}],
    }


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_no_content_is_lost(free: dict[str, Any]) -> None:
    text = yaml.safe_dump({"seq_len": 8, "free": free})
    values = yaml.safe_load(text)
    assert values["free"] == free
    assert validate_settings(Outer, values, "here").free == free


@given(st.dictionaries(KEYS, VALUES, max_size=4), st.lists(KEYS, min_size=1, max_size=3), VALUES)
def test_an_override_changes_its_key_and_no_other(values: dict[str, Any], keys: list[str], value: Any) -> None:
    expected = yaml.safe_load(yaml.safe_dump(values))
    node = expected
    for key in keys[:-1]:
        if node.get(key) is None:
            node[key] = {}
        node = node[key]
        if not isinstance(node, dict):
            return
    node[keys[-1]] = value
    apply_override(values, f"{'.'.join(keys)}={yaml.safe_dump(value, default_flow_style=True)}")
    assert values == expected


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seq_len=16", {"seq_len": 16}),
        ("inner.path=x", {"inner": {"path": "x"}}),
        ("inner={path: x, limit: 2}", {"inner": {"path": "x", "limit": 2}}),
        ("sources.1.limit=5", {"sources": [{"path": "a"}, {"path": "b", "limit": 5}]}),
        ("sources.0={path: c}", {"sources": [{"path": "c"}, {"path": "b"}]}),
        ("sources=[]", {"sources": []}),
        ("inner=", {"inner": None}),
        ("free.a.b.c=1", {"free": {"a": {"b": {"c": 1}}}}),
        ("free.a=x=y", {"free": {"a": "x=y"}}),
        ("free.a='1'", {"free": {"a": "1"}}),
    ],
)
def test_overrides(override: str, expected: dict[str, Any]) -> None:
    values: dict[str, Any] = {"seq_len": 8, "inner": None, "sources": [{"path": "a"}, {"path": "b"}], "free": {}}
    wanted = {**values, **expected}
    apply_override(values, override)
    assert values == wanted


def test_later_overrides_win(tmp_path: Path) -> None:
    assert load(tmp_path, "seq_len: 8", "seq_len=16", "seq_len=32").seq_len == 32


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seq_len", "expected KEY=VALUE"),
        ("=16", "expected KEY=VALUE"),
        ("seq_len=[", "not valid YAML"),
        ("sources.2.path=x", "use 0 to 1"),
        ("sources.-1.path=x", "no index"),
        ("sources.first.path=x", "no index"),
        ("sources.2=x", "no index"),
        ("seq_len.x=1", "it has no keys"),
        ("seq_len.x.y=1", "has no keys"),
        ("sequence_len=1", "unknown key 'sequence_len'; did you mean 'seq_len'?"),
    ],
)
def test_overrides_that_cannot_be_meant(tmp_path: Path, override: str, said: str) -> None:
    message = refusal(tmp_path, "seq_len: 8\nsources: [{path: a}, {path: b}]", override)
    assert said in message


@pytest.mark.parametrize("index", ["0", "00", "\u00b2", "\u0663"])
def test_an_index_of_an_empty_list_is_refused(tmp_path: Path, index: str) -> None:
    assert "list of 0" in refusal(tmp_path, "seq_len: 8\nsources: []", f"sources.{index}.path=x")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seqlen: 8\nseq_len: 8", "unknown key 'seqlen'; did you mean 'seq_len'?"),
        ("seq_len: 8\ninner: {path: a, limits: 3}", "unknown key 'inner.limits'; did you mean 'limit'?"),
        ("seq_len: 8\nsources: [{path: a, pth: b}]", "unknown key 'sources.0.pth'; did you mean 'path'?"),
        ("seq_len: 8\nzzzzzzzz: 1", "unknown key 'zzzzzzzz'"),
        ("rate: 0.5", "'seq_len' is missing"),
        ("", "'seq_len' is missing"),
        ("seq_len: 8\ninner: {}", "'inner.path' is missing"),
        ("seq_len: many", "(got 'many')"),
        ("seq_len: null", "(got null)"),
        ("seq_len: 8.5", "(got 8.5)"),
        ("seq_len: 8\nsources: {path: a}", "'sources'"),
        ("- seq_len: 8", "a config is a mapping"),
        ("seq_len", "a config is a mapping"),
        ("seq_len: [", "not valid YAML"),
        ("seq_len: !!python/object:os.system 8", "not valid YAML"),
        ("\tseq_len: 8", "not valid YAML"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, text: str, said: str) -> None:
    message = refusal(tmp_path, text)
    assert said in message
    assert "config.yaml" in message


def test_every_wrong_key_has_a_line(tmp_path: Path) -> None:
    lines = refusal(tmp_path, "seqlen: 8\nrate: fast\ninner: {}").splitlines()
    assert len(lines) == 4
    assert all("config.yaml: " in line for line in lines)


def test_a_key_that_resembles_none_gets_no_suggestion(tmp_path: Path) -> None:
    assert "did you mean" not in refusal(tmp_path, "seq_len: 8\nzzzzzzzz: 1")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml: cannot read"):
        load_settings(Outer, tmp_path / "gone.yaml")
    with pytest.raises(ConfigError, match="cannot read"):
        load_settings(Outer, tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"seq_len: \xfc")
    with pytest.raises(ConfigError, match=r"latin\.yaml: cannot read"):
        load_settings(Outer, tmp_path / "latin.yaml")


# PyYAML keeps the last of the two and says nothing.
def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    assert "seq_len" in refusal(tmp_path, "seq_len: 8\nrate: 0.1\nseq_len: 16")
