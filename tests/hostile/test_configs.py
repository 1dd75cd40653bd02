"""Configs and profiles of any content: a ConfigError that names the file, or settings. And sources and outputs that
are no place for data."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config import BuildConfig, load_config
from pipeline.plan import plan_sources
from schemas.errors import ConfigError
from schemas.policy import parse_policy
from schemas.profiles import VARIABLE, storage_options
from schemas.yaml_text import MOST_BYTES, MOST_VALUES, load_yaml

BASE: dict[str, Any] = {
    "output": "out",
    "seq_len": 64,
    "tokenizer": {"path": "x"},
    "sources": [{"path": "a.jsonl", "transform": {"type": "openai"}}],
}
START = yaml.safe_dump(BASE)
LAUGHS = "template_kwargs:\n  a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"  {name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "template_kwargs:\n  a: &a {k: 1}\n" + "".join(
    f"  {name}: &{name} {{<<: [{', '.join([f'*{before}'] * 9)}]}}\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
REFUSED = {
    "aliases of aliases": LAUGHS,
    "merges of merges": MERGES,
    "an alias of itself": "template_kwargs: &a {x: *a}\n",
    "a merge of itself": "template_kwargs: &a {<<: *a}\n",
    "deep in a line": "template_kwargs: {a: " + "[" * 1000 + "]" * 1000 + "}\n",
    "deep in lines": "template_kwargs:\n" + "".join(" " * level + "a:\n" for level in range(1, 500)),
    "an object of Python": "template_kwargs: !!python/object/apply:os.system [exit]\n",
    "half a surrogate pair": 'clock: "\\ud800"\n',
    "a NUL in a name": 'chat_template: "a\\0b"\n',
    "a number without end": f"seed: {'9' * 5000}\n",
    "a hexadecimal number without end": f"seed: 0x{'f' * 5000}\n",
    "a size beyond a double": f"block_bytes: {'9' * 400}KiB\n",
    "not a number": "template_kwargs: {a: .nan}\n",
    "bytes": "template_kwargs: {a: !!binary aGVsbG8=}\n",
    "a key that is a list": "? [a]\n: b\n",
    "many keys": "".join(f"key{number}: 1\n" for number in range(1000)),
    "a long value": f"clock: {'x' * 10_000}\n",
    "two documents": "---\na: b\n",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_config_that_means_harm_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(START + REFUSED[name])
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 20 * (len(str(path)) + 60)


@pytest.mark.parametrize("data", [b"\xff", START.encode("utf-16"), b"\0", b"# " + b"x" * MOST_BYTES])
def test_a_config_of_other_bytes_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "config.yaml").write_bytes(data)
    with pytest.raises(ConfigError, match=r"config\.yaml: "):
        load_config(tmp_path / "config.yaml")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from([*START.splitlines(keepends=True), "- ", "{", "&a ", "*a", "<<: ", "? ", "!!", "\n", "'"]))
)
def test_pieces_of_yaml_are_settings_or_a_clear_error(tmp_path: Path, pieces: list[str]) -> None:
    (tmp_path / "config.yaml").write_text("".join(pieces))
    try:
        load_config(tmp_path / "config.yaml")
        error = "config.yaml"
    except ConfigError as refused:
        error = str(refused)
    assert "config.yaml" in error


def test_aliases_that_a_person_would_write_are_read() -> None:
    text = "x: &a {type: openai}\ny: {<<: *a, column: c}\nz: [*a, *a]\n"
    openai = {"type": "openai"}
    assert load_yaml(text) == {"x": openai, "y": {**openai, "column": "c"}, "z": [openai, openai]}
    assert load_yaml("x: &a [" + "1, " * 999 + "1]\ny: [" + "*a, " * 97 + "*a]\n")["y"][97] == [1] * 1000
    with pytest.raises(ValueError, match=f"more than {MOST_VALUES}"):
        load_yaml("x: &a [" + "1, " * 999 + "1]\ny: [" + "*a, " * 99 + "*a]\n")


@pytest.mark.parametrize("text", [LAUGHS, "[" * 5000, "lab: [a]", "\0", "a"])
def test_profiles_that_mean_harm_are_refused_and_never_shown(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "profiles.yaml"
    path.write_text(text)
    monkeypatch.setenv(VARIABLE, str(path))
    with pytest.raises(ConfigError, match="profile 'lab'"):
        storage_options("lab")
    with pytest.raises(ConfigError, match="policy"):
        parse_policy(text, "policy")


def plan(folder: Path, path: str, output: str = "out") -> list[str]:
    source = {"path": path, "transform": {"type": "text"}, "format": "jsonl"}
    config = BuildConfig.model_validate({**BASE, "output": str(folder / output), "sources": [source]})
    return [file.url for file in plan_sources(config).files]


def test_only_files_are_sources(tmp_path: Path) -> None:
    """A pipe would be waited for, and a device read for ever."""
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    (tmp_path / "nowhere.jsonl").symlink_to("gone")
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(tmp_path / "socket.jsonl"))
        for name in os.listdir(tmp_path):
            with pytest.raises(ConfigError, match=r"sources\.0\.path"):
                plan(tmp_path, str(tmp_path / name))
        (tmp_path / "rows.jsonl").write_text("{}\n")
        (tmp_path / "link.jsonl").symlink_to("rows.jsonl")
        assert [Path(url).name for url in plan(tmp_path, str(tmp_path / "*.jsonl"))] == ["link.jsonl", "rows.jsonl"]


@pytest.mark.parametrize("output", ["out", "./out/", "x/../out"])
def test_what_a_build_wrote_is_no_source(tmp_path: Path, output: str) -> None:
    (tmp_path / "out" / "rejects").mkdir(parents=True)
    (tmp_path / "outer.jsonl").write_text("{}\n")
    assert len(plan(tmp_path, str(tmp_path / "**" / "*.jsonl"), output)) == 1
    (tmp_path / "out" / "rejects" / "a.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match=r"sources\.0\.path: it matches .*rejects/a\.jsonl, which is in the output"):
        plan(tmp_path, str(tmp_path / "**" / "*.jsonl"), output)


def test_an_output_has_a_name() -> None:
    with pytest.raises(ValueError, match="output"):
        BuildConfig.model_validate({**BASE, "output": ""})
