"""A store that serves a folder of the disk, and writes down what it is asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec import AbstractFileSystem

from train import fetch

CHUNK = 1000


class Shelf(AbstractFileSystem):
    protocol = "shelf"
    cachable = False
    requests: ClassVar[list[tuple[str, str]]] = []
    answer: ClassVar[Callable[[str, bytes], bytes]]

    def _local(self, path: str) -> Path:
        return Path("/") / path.removeprefix("shelf://").lstrip("/")

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        name = self._local(path).name
        self.requests.append(("read" if start is None else "range", name))
        return type(self).answer(name, self._local(path).read_bytes()[start:end])

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        self.requests.append(("size", self._local(path).name))
        return {"name": path, "size": self._local(path).stat().st_size, "type": "file"}


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> type[Shelf]:
    """Its ranges are of 1,000 bytes, so that a shard has several."""
    fsspec.register_implementation("shelf", Shelf, clobber=True)
    monkeypatch.setattr(fetch, "CHUNK_BYTES", CHUNK)
    Shelf.requests.clear()
    Shelf.answer = unchanged
    return Shelf


def unchanged(_name: str, data: bytes) -> bytes:
    return data
