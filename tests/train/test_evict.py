"""What goes when the cache is full: what was not used for longest, and nothing that somebody has open."""

import fcntl
import mmap
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train import evict
from train.evict import find_limit, make_room, open_used


def put(folder: Path, number: int, size: int, used: int, suffix: str = "") -> Path:
    path = folder / f"{number:064x}{suffix}"
    path.write_bytes(b"x" * size)
    os.utime(path, (used, 1))
    return path


@given(
    files=st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=8),
    order=st.randoms(use_true_random=False),
    limit=st.integers(0, 40),
)
def test_the_least_recently_used_go_until_the_limit_holds(
    files: list[tuple[int, bool]], order: Random, limit: int
) -> None:
    """files: the size of each, and whether somebody has it open."""
    times = list(range(10, 10 + len(files)))
    order.shuffle(times)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        paths = [put(Path(name), number, size, times[number]) for number, (size, _) in enumerate(files)]
        for path, (_, is_open) in zip(paths, files, strict=True):
            if is_open:
                fcntl.flock(stack.enter_context(path.open("rb")), fcntl.LOCK_SH)
        left = sum(size for size, _ in files)
        expected = set(paths)
        for number in sorted(range(len(files)), key=lambda number: times[number]):
            if left > limit and not files[number][1]:
                left -= files[number][0]
                expected.remove(paths[number])
        assert make_room(Path(name), limit) == max(0, left - limit)
        assert set(Path(name).iterdir()) == expected


def test_a_file_stays_while_it_is_open_or_mapped(tmp_path: Path) -> None:
    path = put(tmp_path, 1, 5, 10)
    file = open_used(path)
    assert file is not None
    assert make_room(tmp_path, 0) == 5
    memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    file.close()
    assert make_room(tmp_path, 0) == 5
    assert memory[:] == b"xxxxx"
    del memory
    assert make_room(tmp_path, 0) == 0
    assert open_used(path) is None


def test_a_use_is_seen_and_is_no_change(tmp_path: Path) -> None:
    older, newer = put(tmp_path, 1, 5, 10), put(tmp_path, 2, 5, 20)
    file = open_used(older)
    assert file is not None
    file.close()
    assert older.stat().st_mtime == 1
    assert make_room(tmp_path, 5) == 0
    assert list(tmp_path.iterdir()) == [older]
    assert not newer.exists()


def test_what_was_left_half_fetched_goes_and_what_is_being_fetched_counts(tmp_path: Path) -> None:
    dead, alive = put(tmp_path, 1, 5, 30, ".part"), put(tmp_path, 2, 5, 20, ".part")
    shard, other = put(tmp_path, 3, 5, 10), tmp_path / "notes"
    other.write_text("not ours")
    with alive.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert make_room(tmp_path, 10) == 0
        assert set(tmp_path.iterdir()) == {alive, shard, other}
        assert make_room(tmp_path, 1) == 4
        assert set(tmp_path.iterdir()) == {alive, other}
    assert not dead.exists()


def test_without_a_limit_a_tenth_of_the_disk_stays_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = put(tmp_path, 1, 4096, 10).stat().st_blocks * 512
    for free, expected in ((30_000, blocks + 20_000), (10_000, blocks), (10_000 - blocks - 1, 0)):
        disk = SimpleNamespace(f_blocks=100, f_frsize=1000, f_bavail=free / 1000)
        monkeypatch.setattr(evict.os, "statvfs", lambda _, disk=disk: disk)
        assert find_limit(tmp_path, None) == expected
    assert find_limit(tmp_path, 7) == 7
