"""A file that is created once: what a store refuses is left to it, and where it does not, one writer still knows."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from careless import Careless

from pipeline.exclusive import create_once, refuses_second
from schemas.store import Folder

WRITERS = 4


@pytest.fixture(params=[Folder, Careless])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    made: Folder = request.param(str(tmp_path))
    return made


def test_the_probe_tells_stores_apart_and_leaves_nothing(tmp_path: Path) -> None:
    assert refuses_second(Folder(str(tmp_path)))
    assert not refuses_second(Careless(str(tmp_path)))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_disk_without_hard_links_refuses_nothing_at_the_same_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    folder = Folder(str(tmp_path))
    assert not refuses_second(folder)
    assert create_once(folder, "manifest.json", b"one", 0)
    assert not create_once(folder, "manifest.json", b"two", 0)


def test_what_is_there_stays(folder: Folder) -> None:
    assert create_once(folder, "manifest.json", b"one", 0)
    assert not create_once(folder, "manifest.json", b"two", 0)
    assert folder.read("manifest.json") == b"one"


@pytest.mark.parametrize("attempt", range(5))
def test_of_many_writers_one_knows_that_its_file_stays(folder: Folder, attempt: int) -> None:
    start = threading.Barrier(WRITERS)

    def create(number: int) -> bool:
        start.wait()
        return create_once(folder, "manifest.json", b"%d" % number, 0.3)

    with ThreadPoolExecutor(WRITERS) as pool:
        created = list(pool.map(create, range(WRITERS)))
    assert [number for number, is_first in enumerate(created) if is_first] == [int(folder.read("manifest.json"))]


def test_one_who_is_overwritten_while_it_waits_is_told(tmp_path: Path) -> None:
    """Both have looked before either wrote."""
    folder = Careless(str(tmp_path))
    other = threading.Timer(0.1, folder.write, ("manifest.json", b"other"))
    other.start()
    assert not create_once(folder, "manifest.json", b"one", 0.4)
    other.join()
