"""Data sets on a store: the same packs, few requests, and nothing damaged that is used, wherever the damage is."""

import multiprocessing
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shelf import CHUNK, Shelf, unchanged

from schemas.errors import ConfigError, DatasetError
from schemas.store import Folder
from train import cache, evict, open_shards
from train.cache import ShardCache
from train.evict import make_room
from train.packs import ShardedPacks


@pytest.fixture
def path(tmp_path: Path, build_dataset: Callable[..., str], unequal_packs: Sequence[Any]) -> str:
    return build_dataset(tmp_path / "data", unequal_packs)


@pytest.fixture
def open_remote(path: str, tmp_path: Path) -> Callable[[], ShardedPacks]:
    """As a process that knows nothing yet would."""
    return lambda: ShardedPacks(f"shelf://{path}", cache=tmp_path / "cache")


Open = Callable[[], ShardedPacks]


def assert_alike(remote: ShardedPacks, path: str) -> None:
    local = ShardedPacks(path)
    assert len(remote) == len(local) == 5
    for number in range(5):
        assert np.array_equal(remote[number].input_ids, local[number].input_ids)


def files_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_packs_are_those_of_the_folder_and_a_shard_is_fetched_once(
    shelf: type[Shelf], path: str, open_remote: Open, tmp_path: Path
) -> None:
    remote = open_remote()
    assert shelf.requests == [("read", "manifest.json"), ("read", "manifest-0001.json")]
    assert_alike(remote, path)
    pieces = [-(-shard.bytes // 1000) for shard in remote.shards]
    assert min(pieces) > 1
    assert shelf.requests[2:] == [("range", "00000.arrow")] * pieces[0] + [("range", "00003.arrow")] * pieces[1]
    assert files_in(tmp_path / "cache") == sorted(shard.sha256 for shard in remote.shards)
    shelf.requests.clear()
    assert_alike(open_remote(), path)
    assert len(shelf.requests) == 2


def test_a_shard_that_many_want_is_fetched_by_one(shelf: type[Shelf], path: str, tmp_path: Path) -> None:
    def slow(_name: str, data: bytes) -> bytes:
        time.sleep(0.01)
        return data

    shelf.answer = slow
    shard = ShardedPacks(path).shards[0]
    start = threading.Barrier(8)

    def fetch(_: int) -> str:
        start.wait()
        return ShardCache(tmp_path / "cache").open(Folder(f"shelf://{path}"), shard).name

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(fetch, range(8))) == {str(tmp_path / "cache" / shard.sha256)}
    assert len(shelf.requests) == -(-shard.bytes // 1000)
    assert files_in(tmp_path / "cache") == [shard.sha256]


def test_what_a_killed_process_left_is_fetched_over(
    shelf: type[Shelf], path: str, open_remote: Open, tmp_path: Path
) -> None:
    remote = open_remote()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / f"{remote.shards[0].sha256}.part").write_bytes(b"the half")
    assert_alike(remote, path)


@pytest.mark.parametrize("times", [1, 2])
def test_a_shard_that_comes_wrong_is_fetched_twice_and_no_more(
    times: int, shelf: type[Shelf], path: str, open_remote: Open, tmp_path: Path
) -> None:
    left = iter(range(times))

    def answer(name: str, data: bytes) -> bytes:
        return bytes([data[0] ^ 1]) + data[1:] if name == "00000.arrow" and next(left, None) is not None else data

    shelf.answer = answer
    remote = open_remote()
    if times == 1:
        assert_alike(remote, path)
        return
    left = iter(range(1000))
    with pytest.raises(DatasetError, match=f"00000.arrow: shard is damaged.*says {remote.shards[0].sha256}"):
        remote[0]
    assert files_in(tmp_path / "cache") == []
    assert len(shelf.requests) == 2 + 2 * -(-remote.shards[0].bytes // 1000)


@pytest.mark.parametrize("damage", [lambda data: b"!" + data[1:], lambda data: data[:-1], lambda data: b""])
def test_a_damaged_file_of_the_cache_is_fetched_again(
    damage: Callable[[bytes], bytes], shelf: type[Shelf], path: str, open_remote: Open, tmp_path: Path
) -> None:
    assert_alike(open_remote(), path)
    remote = open_remote()
    kept = tmp_path / "cache" / remote.shards[0].sha256
    kept.write_bytes(damage(kept.read_bytes()))
    shelf.requests.clear()
    assert_alike(remote, path)
    assert {name for _, name in shelf.requests} == {"00000.arrow"}


def test_a_missing_shard_and_a_cache_that_cannot_be_written_are_told(
    shelf: type[Shelf], path: str, open_remote: Open, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("no folder")
    with pytest.raises(DatasetError, match=r"the cache cannot be written.*`cache\.folder`"):
        open_remote()[0]
    (tmp_path / "cache").unlink()
    (tmp_path / "data" / "shards" / "00003.arrow").unlink()
    remote = open_remote()
    assert len(remote[0].doc_lengths)
    with pytest.raises(DatasetError, match=r"shards/00003\.arrow: shard is missing"):
        remote[4]


def test_a_profile_that_has_gone_since_the_start_is_an_error_of_the_data(shelf: type[Shelf], open_remote: Open) -> None:
    """Which all ranks are told of."""

    def fail(_name: str, _data: bytes) -> bytes:
        raise ConfigError("no such profile")

    remote = open_remote()
    shelf.answer = fail
    with pytest.raises(DatasetError, match="no such profile"):
        remote.prepare(0)


def test_the_folder_is_that_of_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PACKLINE_CACHE", str(tmp_path))
    assert cache.default_folder() == tmp_path
    monkeypatch.delenv("PACKLINE_CACHE")
    assert cache.default_folder() == Path.home() / ".cache/packline/shards"


def test_urls_with_secrets_are_refused_without_them() -> None:
    with pytest.raises(ConfigError, match="a user, password or query") as caught:
        ShardedPacks("s3://key:secret@bucket/data?sig=hidden")
    assert "secret@" not in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_packs_are_right_where_the_cache_holds_nothing_and_it_is_told_once(
    shelf: type[Shelf], path: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An evicted shard is fetched again, and checked again, though it was found right before."""
    cache._warn_of_use.cache_clear()
    remote = ShardedPacks(f"shelf://{path}", cache=tmp_path / "cache", cache_bytes=1)
    for _ in range(2):
        for index in (0, 1):
            remote.prepare(index)
            number = 3 * index
            assert np.array_equal(remote[number].input_ids, ShardedPacks(path)[number].input_ids)
            assert files_in(tmp_path / "cache") == [remote.shards[index].sha256]
            remote.release(index)
    assert Counter(name for kind, name in shelf.requests if kind == "range") == {
        Path(shard.name).name: 2 * -(-shard.bytes // CHUNK) for shard in remote.shards
    }
    assert [record.name for record in caplog.records] == ["packline.cache"]
    assert "`cache.max_gib` 9.31323e-10" in caplog.text
    shelf.answer = lambda _name, data: bytes(len(data))
    with pytest.raises(DatasetError, match=r"00000\.arrow: shard is damaged"):
        remote.prepare(0)


def test_what_is_kept_for_later_is_not_evicted(shelf: type[Shelf], path: str, tmp_path: Path) -> None:
    remote = ShardedPacks(f"shelf://{path}", cache=tmp_path / "cache", cache_bytes=1)
    for index in (0, 1):
        remote.prepare(index)
    assert len(files_in(tmp_path / "cache")) == 2
    shelf.requests.clear()
    assert_alike(remote, path)
    assert shelf.requests == []


def test_what_was_fetched_is_opened_before_it_can_be_evicted(
    shelf: type[Shelf], path: str, open_remote: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run makes room whenever a file is about to be opened."""
    looks = iter(range(5))

    def open_used(file: Path) -> Any:
        next(looks)
        if file.parent.exists():
            make_room(file.parent, 0)
        return evict.open_used(file)

    monkeypatch.setattr(cache, "open_used", open_used)
    remote = open_remote()
    remote.prepare(0)
    assert shelf.requests[2:] == [("range", "00000.arrow")] * -(-remote.shards[0].bytes // CHUNK)


def test_a_file_that_changed_since_its_check_is_checked_when_it_is_mapped_anew(
    shelf: type[Shelf], path: str, open_remote: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_shards, "MAPPED_SHARDS", 0)
    remote, local = open_remote(), ShardedPacks(path)
    expected = local[0].input_ids.tolist()
    assert remote[0].input_ids.tolist() == expected
    cached = tmp_path / "cache" / remote.shards[0].sha256
    for file in (cached, tmp_path / "data/shards/00000.arrow"):
        file.write_bytes(b"!" + file.read_bytes()[1:])
    with pytest.raises(DatasetError, match="is damaged"):
        local[0]
    (tmp_path / "data/shards/00000.arrow").write_bytes(b"A" + cached.read_bytes()[1:])
    shelf.requests.clear()
    assert remote[0].input_ids.tolist() == expected
    assert {name for _, name in shelf.requests} == {"00000.arrow"}


@pytest.mark.slow
def test_who_is_killed_while_it_fetches_keeps_nobody_waiting(
    shelf: type[Shelf], path: str, open_remote: Open, tmp_path: Path
) -> None:
    begun = multiprocessing.get_context("fork").Event()

    def hang(_name: str, _data: bytes) -> bytes:
        begun.set()
        time.sleep(3600)
        return b""

    remote = open_remote()
    shelf.answer = hang
    child = multiprocessing.get_context("fork").Process(target=remote.prepare, args=(0,))
    child.start()
    assert begun.wait(60)
    shelf.answer = unchanged
    assert files_in(tmp_path / "cache") == [f"{remote.shards[0].sha256}.part"]
    child.kill()
    assert_alike(remote, path)
    assert files_in(tmp_path / "cache") == sorted(shard.sha256 for shard in remote.shards)
    child.join()


@pytest.mark.slow
def test_a_child_that_is_forked_while_a_thread_fetches_keeps_nobody_waiting(
    shelf: type[Shelf], open_remote: Open
) -> None:
    """The child has the file open that its parent fetches into, and so its lock."""
    begun, forked = threading.Event(), threading.Event()

    def wait(_name: str, data: bytes) -> bytes:
        begun.set()
        forked.wait(60)
        return data

    remote = open_remote()
    shelf.answer = wait
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(3600,))
    with ThreadPoolExecutor(1) as pool:
        fetched = pool.submit(remote.prepare, 0)
        assert begun.wait(60)
        child.start()
        forked.set()
        try:
            fetched.result(60)
        finally:
            child.kill()
            child.join()
