"""Manifests, generations, golden vectors and states of any content: a DatasetError that names the file, or they are
sound."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from manifest_values import manifest_values

from pipeline.block_info import StateStore
from pipeline.blocks import BlockKey
from schemas.errors import DatasetError
from schemas.generations import load_dataset
from schemas.golden import decode_golden
from schemas.manifest import Manifest, decode_manifest, load_manifest
from schemas.store import Folder

ODD = st.sampled_from(
    [
        *(None, True, "", "16", "..", "/etc/passwd", "s3://a/b", "\0", -1, 0, 2**31, 2**63, 10**300, 1e308, 0.5),
        *(math.nan, math.inf, [], {}, [[]], {"": None}, {"a": 1}, ["x"] * 3),
    ]
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


PLACES = [place for place in places(manifest_values()) if place and place[0] != "config"]


def change(values: Any, place: tuple[Any, ...], value: Any) -> None:
    for key in place[:-1]:
        values = values[key]
    values[place[-1]] = value


@settings(max_examples=300)
@given(st.sampled_from(PLACES), ODD, st.sampled_from(["value", "key", "gone"]))
def test_a_manifest_with_something_odd_in_it_is_sound_or_refused(place: tuple[Any, ...], odd: Any, kind: str) -> None:
    values = manifest_values()
    if kind == "value":
        change(values, place, odd)
    else:
        *parents, last = place
        holder = values
        for key in parents:
            holder = holder[key]
        moved = holder.pop(last)
        if kind == "key" and isinstance(holder, dict):
            holder[str(odd)] = moved
    try:
        manifest = decode_manifest(json.dumps(values).encode(), "here/manifest.json")
    except DatasetError as error:
        told = str(error)
    else:
        assert_sound(manifest)
        return
    assert told.startswith("here/manifest.json: ")
    assert len(told) < 600


def assert_sound(manifest: Manifest) -> None:
    """What readers rely on: numbers that numpy holds, keys that are numbers, names within the folder."""
    assert 0 < manifest.seq_len < 2**31
    assert all(0 <= getattr(manifest.totals, name) < 2**63 for name in type(manifest.totals).model_fields)
    assert all(type(number) is int for shard in manifest.shards for number in (shard.bytes, shard.packs, shard.tokens))
    assert all(str(int(key)) == key for key in [*manifest.channels.sources, *manifest.turns.sources])
    assert all(".." not in file.name and not file.name.startswith("/") for file in manifest.shards)
    assert 0 <= manifest.fill <= 1
    assert decode_manifest(manifest.encode(), "again") == manifest


@settings(max_examples=100)
@given(st.binary(max_size=30), st.integers(0, 2000))
def test_a_manifest_of_any_bytes_is_refused(data: bytes, cut: int) -> None:
    whole = json.dumps(manifest_values()).encode()
    for damaged in (data, whole[: cut % len(whole)], data + whole + b"x"):
        for decode in (decode_manifest, decode_golden):
            with pytest.raises(DatasetError, match=r"^here: "):
                decode(damaged, "here")


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"a":' * 100_000, b'{"config": ' + b"[" * 500 + b"]" * 500 + b"}"])
def test_deep_nesting_is_refused(data: bytes) -> None:
    for decode in (decode_manifest, decode_golden):
        with pytest.raises(DatasetError, match=r"^here: "):
            decode(data, "here")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 3), ODD, st.sampled_from(["generation", "parent", "name", "sha256"]))
def test_generations_that_point_anywhere_are_refused(tmp_path: Path, number: int, odd: Any, field: str) -> None:
    """Loops, other files, numbers that lie: a parent is the file before, by its hash, or nothing."""
    (tmp_path / "manifest.json").write_text(json.dumps(manifest_values()))
    values: dict[str, Any] = {**manifest_values(), "generation": 1}
    values["parent"] = {"name": f"manifest-000{number}.json", "sha256": "0" * 64}
    if field in ("name", "sha256"):
        values["parent"][field] = odd
    else:
        values[field] = odd
    (tmp_path / "manifest-0001.json").write_text(json.dumps(values))
    with pytest.raises(DatasetError, match=r"manifest-0001\.json"):
        load_dataset(Folder(str(tmp_path)))


@pytest.mark.parametrize("name", ["manifest.json", "."])
def test_a_folder_in_the_place_of_a_manifest_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir(exist_ok=True)
    (tmp_path / "file").write_text("")
    for folder in (Folder(str(tmp_path)), Folder(str(tmp_path / "file"))):
        for load in (load_manifest, load_dataset):
            with pytest.raises(DatasetError, match=r"manifest\.json"):
                load(folder)


def test_a_write_replaces_a_link_and_does_not_go_through_it(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    folder = Folder(str(tmp_path / "output"))
    for number, write in enumerate((folder.write, folder.ensure)):
        name = f"tokenizer/{number}.json"
        (tmp_path / "output" / "tokenizer").mkdir(parents=True, exist_ok=True)
        (tmp_path / "output" / name).symlink_to(outside)
        write(name, b"theirs")
        assert folder.read(name) == b"theirs"
    (tmp_path / "output" / "manifest.json").symlink_to(outside)
    (tmp_path / "output" / "manifest-0001.json").symlink_to(tmp_path / "nowhere")
    assert not folder.create("manifest.json", b"theirs")
    assert not folder.create("manifest-0001.json", b"theirs")
    assert outside.read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=20) | st.just(b"[" * 100_000) | st.just(b"{}"))
def test_a_damaged_state_file_counts_as_none(tmp_path: Path, data: bytes) -> None:
    state = StateStore(Folder(str(tmp_path)), "a" * 64, "reference")
    key = BlockKey(0, 0, last=False)
    state.output.write(f"{state.folder}/{key.name}.json", data)
    assert state.load(key) is None
