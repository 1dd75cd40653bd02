"""Folders on servers that speak as stores do."""

import pytest
from servers import Store

pytestmark = pytest.mark.slow


def test_what_is_written_is_read(object_store: Store) -> None:
    folder = object_store.new_folder()
    data = bytes(range(256)) * 100_000
    folder.write("deep/a", data)
    folder.write("deep/a", data[::-1])
    assert folder.read("deep/a") == data[::-1]
    assert folder.size("deep/a") == len(data)
    assert folder.size("deep") is None
    assert folder.size("gone") is None
    assert folder.names("deep") == ["deep/a"]
    assert [(file.name, file.bytes) for file in folder.files("")] == [("deep/a", len(data))]
    folder.remove("deep/a")
    folder.remove("deep/a")
    assert folder.size("deep/a") is None
    with pytest.raises(FileNotFoundError):
        folder.read("deep/a")


def test_a_second_is_not_created(object_store: Store) -> None:
    folder = object_store.new_folder()
    assert folder.create("a", b"one")
    assert folder.create("a", b"one")
    refused = not folder.create("a", b"two")
    assert refused == (object_store.profile != "juicefs")
    assert folder.read("a") == (b"one" if refused else b"two")
