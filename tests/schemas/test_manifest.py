"""The manifest: what is written is what is read, and nothing else is read."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.channels import LEGAL
from schemas.errors import DatasetError
from schemas.manifest import add_histograms, decode_manifest, load_manifest
from schemas.store import Folder

Values = dict[str, Any]
MakeValues = Callable[[], Values]

UNSAFE_NAMES = [
    "",
    "..",
    "../other.arrow",
    "shards/../../etc/passwd",
    "shards/..",
    "/etc/passwd",
    "//host/share",
    "s3://bucket/shard.arrow",
    "file:///etc/passwd",
    "C:\\shard.arrow",
    "C:/shard.arrow",
    "shards\\00000.arrow",
    ".hidden",
    "shards/.hidden",
    "./shard.arrow",
    "shards//00000.arrow",
    "shards/",
    "shards/a b.arrow",
    "shards/a.arrow\n",
    "shards/a.arrow\x00",
    "shards/\u0430.arrow",
    "~/shard.arrow",
    "shards/%2e%2e/a.arrow",
    "shards/a.arrow?query",
    "-rf",
]


def decode(values: Values) -> Values:
    return decode_manifest(json.dumps(values).encode(), "here").model_dump(mode="json")


def set_at(values: Any, path: str, value: Any) -> None:
    *parents, last = [int(key) if key.isdecimal() else key for key in path.split("/")]
    for key in parents:
        values = values[key]
    values[last] = value


def test_round_trip(manifest_values: MakeValues) -> None:
    values = manifest_values()
    manifest = decode_manifest(json.dumps(values).encode(), "here")
    assert json.loads(manifest.encode()) == values
    assert decode_manifest(manifest.encode(), "here") == manifest
    assert decode_manifest(manifest.encode(), "here").encode() == manifest.encode()


def test_load_reads_the_folder(manifest_values: MakeValues, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(manifest_values()))
    assert load_manifest(Folder(str(tmp_path))).model_dump(mode="json") == manifest_values()


def test_no_manifest_is_said_to_be_an_unfinished_build_or_another_path(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"manifest\.json does not exist"):
        load_manifest(Folder(str(tmp_path)))


@pytest.mark.parametrize("path", ["shards/0/name", "holdout/shards/0/name", "rejects/files/0/name"])
@pytest.mark.parametrize("name", UNSAFE_NAMES)
def test_unsafe_file_names_are_refused(manifest_values: MakeValues, path: str, name: str) -> None:
    values = manifest_values()
    set_at(values, path, name)
    with pytest.raises(DatasetError, match="unsafe file name"):
        decode(values)


@pytest.mark.parametrize("name", ["a", "a.arrow", "shards/00000-000-1f3a9c2e.arrow", "A_1/b-2/c.3"])
def test_safe_file_names_are_kept(manifest_values: MakeValues, name: str) -> None:
    values = manifest_values()
    set_at(values, "shards/0/name", name)
    assert decode(values)["shards"][0]["name"] == name


@pytest.mark.parametrize(
    "path",
    ["extra", "tokenizer/extra", "shards/0/extra", "holdout/extra", "rejects/extra", "totals/extra", "sources/0/extra"],
)
def test_unknown_keys_are_refused(manifest_values: MakeValues, path: str) -> None:
    values = manifest_values()
    set_at(values, path, 1)
    with pytest.raises(DatasetError, match=path.replace("/", ".")):
        decode(values)


def test_missing_keys_are_refused(manifest_values: MakeValues) -> None:
    # `format` has one value, which is its default.
    for key in sorted(set(manifest_values()) - {"format"}):
        values = manifest_values()
        del values[key]
        with pytest.raises(DatasetError, match=key):
            decode(values)


@pytest.mark.parametrize("path", ["channels/total", "channels/sources/0", "holdout/channels"])
def test_a_histogram_counts_legal_bytes_only(manifest_values: MakeValues, path: str) -> None:
    for byte in range(300):
        values = manifest_values()
        set_at(values, path, {str(byte): 1})
        if byte < 256 and LEGAL[byte]:
            decode(values)
        else:
            with pytest.raises(DatasetError, match="no legal channel byte"):
                decode(values)


@pytest.mark.parametrize("key", ["-1", "1.0", "", "body", " 1", "0x1"])
def test_a_histogram_key_is_a_decimal_number(manifest_values: MakeValues, key: str) -> None:
    values = manifest_values()
    values["channels"]["total"] = {key: 1}
    with pytest.raises(DatasetError, match="no legal channel byte"):
        decode(values)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("format", "2"),
        ("format", 1),
        ("id", "a" * 63),
        ("id", "A" * 64),
        ("shards/0/sha256", "../" + "a" * 61),
        ("seq_len", 0),
        ("vocab_size", -1),
        ("pad_id", -1),
        ("totals/rows", -1),
        ("shards/0/bytes", -1),
        ("shards/0/bytes", "many"),
        ("tokenizer/kind", "wordpiece"),
        ("rejects/counts", {"whim": 1}),
        ("channels/total", {"13": -1}),
    ],
)
def test_wrong_values_are_refused_with_their_place(manifest_values: MakeValues, path: str, value: Any) -> None:
    values = manifest_values()
    set_at(values, path, value)
    with pytest.raises(DatasetError, match=path.split("/", maxsplit=1)[0]) as caught:
        decode(values)
    assert str(caught.value).startswith("here: not a manifest of format 1")
    assert "rebuild" in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"ARROW1"])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(DatasetError, match="here: not a manifest"):
        decode_manifest(data, "here")


@given(st.lists(st.dictionaries(st.integers(0, 255).map(str), st.integers(0, 100))))
def test_histograms_add_up_in_the_order_of_the_bytes(histograms: list[dict[str, int]]) -> None:
    counter: Counter[str] = Counter()
    for histogram in histograms:
        for byte, count in histogram.items():
            counter[byte] += count
    total = add_histograms(histograms)
    assert total == dict(counter)
    assert list(total) == sorted(total, key=int)
