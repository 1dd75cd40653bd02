"""Files on a store: whole or not at all, and created once."""

import errno
import itertools
import os
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import DatasetError
from schemas.store import Folder, check_name, dataset_folder
from schemas.urls import without_secrets

NUMBERS = itertools.count()


@pytest.fixture(params=["local", "file", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Folder]:
    if request.param != "memory":
        yield Folder(f"{'file://' if request.param == 'file' else ''}{tmp_path}/output")
        return
    root = f"/store-{next(NUMBERS)}"
    yield Folder(f"memory://{root}")
    memory = fsspec.filesystem("memory")
    if memory.exists(root):
        memory.rm(root, recursive=True)


def files_below(path: Path) -> list[str]:
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())


def test_what_is_written_is_read(folder: Folder) -> None:
    for name in ("manifest.json", "shards/a.arrow", "a/b/c/d.bin"):
        data = name.encode() * 1000
        folder.write(name, data)
        assert folder.read(name) == data
        assert folder.size(name) == len(data)
        with folder.open(name) as file:
            assert file.read() == data


def test_write_replaces(folder: Folder) -> None:
    folder.write("a", b"one")
    folder.write("a", b"two")
    assert folder.read("a") == b"two"
    assert folder.names("") == ["a"]


def test_create_never_overwrites(folder: Folder) -> None:
    assert folder.create("deep/a", b"one")
    assert not folder.create("deep/a", b"two")
    assert folder.read("deep/a") == b"one"
    assert folder.names("deep") == ["deep/a"]
    folder.write("b", b"written")
    assert not folder.create("b", b"created")
    assert folder.read("b") == b"written"


def test_to_create_the_same_again_is_no_harm(folder: Folder) -> None:
    """A first try may have been done and its answer lost."""
    assert folder.create("a", b"one")
    assert folder.create("a", b"one")


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_disk_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    output = Folder(str(tmp_path))
    assert output.create("deep/a", b"one")
    assert not output.create("deep/a", b"two")
    assert output.read("deep/a") == b"one"
    assert files_below(tmp_path) == ["deep/a"]


def test_a_folder_is_no_file(folder: Folder) -> None:
    folder.write("deep/a", b"x")
    assert folder.size("deep") is None


def test_an_empty_file_is_a_file(folder: Folder) -> None:
    assert folder.create("a", b"")
    assert folder.size("a") == 0
    assert not folder.create("a", b"more")
    assert folder.read("a") == b""


@pytest.mark.parametrize("attempt", range(20))
def test_of_eight_creators_one_wins(tmp_path: Path, attempt: int) -> None:
    output = Folder(str(tmp_path))
    start = threading.Barrier(8)

    def create(number: int) -> bool:
        start.wait()
        return output.create("deep/a", str(number).encode() * 10_000)

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(8)))
    assert won.count(True) == 1
    assert output.read("deep/a") == str(won.index(True)).encode() * 10_000
    assert files_below(tmp_path) == ["deep/a"]


def test_readers_see_the_old_file_or_the_new(tmp_path: Path) -> None:
    output = Folder(str(tmp_path))
    versions = [bytes([number]) * 100_000 for number in range(4)]
    output.write("a", versions[0])
    done = threading.Event()
    seen: list[bytes] = []

    def watch() -> None:
        while not done.is_set():
            seen.append(output.read("a"))

    with ThreadPoolExecutor(1) as pool:
        watcher = pool.submit(watch)
        for version in versions * 3:
            output.write("a", version)
        done.set()
        watcher.result()
    assert seen
    assert set(seen) <= set(versions)
    assert files_below(tmp_path) == ["a"]


@pytest.mark.parametrize("broken", ["fsync", "replace", "open"])
def test_a_failing_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    output = Folder(str(tmp_path))
    output.write("a", b"old")

    def fail(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open" if broken == "open" else f"os.{broken}", fail)
        with pytest.raises(OSError, match="No space left"):
            output.write("a", b"new")
    assert output.read("a") == b"old"


@pytest.mark.parametrize("broken", ["fsync", "link"])
def test_a_failing_create_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    output = Folder(str(tmp_path))

    def fail(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"os.{broken}", fail)
        with pytest.raises(OSError, match="No space left"):
            output.create("a", b"new")
    assert output.size("a") is None
    assert output.create("a", b"new")


@pytest.mark.parametrize("method", ["write", "create"])
def test_a_failure_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            getattr(Folder(str(tmp_path)), method)("a", b"new")
    assert files_below(tmp_path) == []


def test_names_are_those_right_below(folder: Folder) -> None:
    for name in ("state/b.json", "state/a.json", "top.json"):
        folder.write(name, b"x")
    assert folder.names("state") == ["state/a.json", "state/b.json"]
    assert folder.names("nowhere") == []
    folder.write("state/c.json", b"x")
    assert folder.names("state") == ["state/a.json", "state/b.json", "state/c.json"]


def test_what_is_missing(folder: Folder) -> None:
    folder.write("a", b"x")
    assert folder.size("gone") is None
    assert folder.size("deep/gone") is None
    with pytest.raises(FileNotFoundError):
        folder.read("gone")
    folder.remove("gone")
    folder.remove("a")
    assert folder.size("a") is None


def test_a_file_where_a_folder_should_be_has_no_size(tmp_path: Path) -> None:
    output = Folder(str(tmp_path))
    output.write("a", b"x")
    assert output.size("a/b") is None


def test_a_folder_travels(folder: Folder) -> None:
    folder.write("a", b"x")
    assert pickle.loads(pickle.dumps(folder)).read("a") == b"x"


def test_local_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in (str(tmp_path), f"{tmp_path}/", f"file://{tmp_path}", ".", os.path.relpath(tmp_path)):
        assert Folder(url).is_local
        assert Folder(url).local_path("a/b") == tmp_path / "a/b"
    assert not Folder("memory://x").is_local


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://key:secret@bucket/a/b", "s3://bucket/a/b"),
        ("https://user@host:8080/a?token=t#part", "https://host:8080/a"),
        ("https://host/a?X-Amz-Signature=f00", "https://host/a"),
        ("https://user:p@ss@host/a", "https://host/a"),
        ("gs://bucket/a b/\u00fc.jsonl", "gs://bucket/a b/\u00fc.jsonl"),
        ("s3://bucket/data/*.jsonl", "s3://bucket/data/*.jsonl"),
        ("file:///data/rows.jsonl", "file:///data/rows.jsonl"),
        ("memory://x", "memory://x"),
        ("/data/rows@home.jsonl", "/data/rows@home.jsonl"),
        ("C:\\data\\rows.jsonl", "C:\\data\\rows.jsonl"),
        ("rows?.jsonl", "rows?.jsonl"),
        ("", ""),
    ],
)
def test_urls_are_kept_without_secrets(url: str, expected: str) -> None:
    assert without_secrets(url) == expected


@given(st.text("abc:@/?#=&%. ", max_size=12), st.text("abc/", max_size=6))
def test_no_secret_stays(secret: str, path: str) -> None:
    cleaned = without_secrets(f"https://host/{path}?key=SECRET{secret}")
    assert "SECRET" not in cleaned
    assert cleaned.startswith("https://host/")
    assert without_secrets(cleaned) == cleaned


@pytest.mark.parametrize("name", ["a", "shards/00000-000-1f3a9c2e.arrow"])
def test_a_safe_name_is_given_back(name: str) -> None:
    assert check_name(name) == name


@given(st.text(max_size=8) | st.text("./\\a:-", max_size=8))
def test_a_checked_name_stays_inside(name: str) -> None:
    try:
        check_name(name)
    except ValueError:
        return
    assert os.path.normpath(os.path.join("/root", name)) == f"/root/{name}"
    assert "\\" not in name
    assert ":" not in name


@pytest.mark.parametrize("url", ["out", "out/", "out/manifest.json"])
def test_a_data_set_is_given_by_its_folder_or_its_manifest(url: str) -> None:
    assert dataset_folder(url) == Folder("out")


def test_an_empty_path_is_no_data_set() -> None:
    with pytest.raises(DatasetError, match="path is empty"):
        dataset_folder("")
