"""Shards of data sets on stores, kept on this machine and shared by all processes and runs that use the folder.

    CACHE/SHA256          a shard, whole: a file gets this name when its bytes have been found to be those of the name
    CACHE/SHA256.part     one that is being fetched, locked by whoever fetches it

A name says what the file holds, so equal shards of two data sets are one file, and no name of a manifest becomes a
path here. The system gives a lock back when its holder dies; what is left of its file is fetched over.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from schemas.errors import DatasetError
from schemas.manifest import ShardFile
from schemas.store import Folder

VARIABLE = "PACKLINE_CACHE"
DEFAULT_FOLDER = "~/.cache/packline/shards"

CHUNK_BYTES = 8 << 20
"""Fetched at a time."""

ATTEMPTS = 2
"""The store's library tries again where a request fails; this is for answers that were wrong."""


def file_sha256(path: str | Path) -> str:
    """It is read and not mapped: a disk's error is then an OSError, and none of it counts as the process's memory."""
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def default_folder() -> Path:
    return Path(os.environ.get(VARIABLE) or DEFAULT_FOLDER).expanduser()


class ShardCache:
    """Safe for concurrent threads, processes and runs. Nothing is ever removed; what is damaged is replaced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, shard: ShardFile) -> Path:
        return self.folder / shard.sha256

    def fetch(self, folder: Folder, shard: ShardFile) -> str:
        """The path of the shard's file, which is fetched from `folder` unless it is there.

        Where another process fetches it, that is waited for. Raises DatasetError where the store has no such file, or
        twice gave other bytes than the manifest says, and where the cache cannot be written.
        """
        path = self.path(shard)
        with _writing(path):
            if not path.exists():
                with self._part(shard) as part:
                    if not path.exists():
                        _fetch(folder, shard, part)
                        os.rename(part.name, path)
        return str(path)

    def mend(self, folder: Folder, shard: ShardFile) -> None:
        """Fetch a damaged file again, unless another process has by now. Who has the old one mapped keeps what it maps.
        Raises DatasetError as `fetch` does."""
        path = self.path(shard)
        with _writing(path), self._part(shard) as part:
            if not path.exists() or file_sha256(path) != shard.sha256:
                _fetch(folder, shard, part)
                os.rename(part.name, path)

    @contextmanager
    def _part(self, shard: ShardFile) -> Iterator[BinaryIO]:
        """The file to fetch into, empty, and no other process's until it is left."""
        name = f"{self.path(shard)}.part"
        self.folder.mkdir(parents=True, exist_ok=True)
        part = _open_locked(name)
        try:
            yield part
        finally:
            if _is_at(part, name):
                os.unlink(name)
            part.close()


def _open_locked(name: str) -> BinaryIO:
    """A file that was renamed or removed while its lock was waited for is not at its name any more: take a new one."""
    while True:
        part = open(name, "a+b")  # noqa: SIM115
        fcntl.flock(part, fcntl.LOCK_EX)
        if _is_at(part, name):
            return part
        part.close()


def _is_at(file: BinaryIO, name: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(name))
    except FileNotFoundError:
        return False


def _fetch(folder: Folder, shard: ShardFile, part: BinaryIO) -> None:
    where, found = f"{folder.shown}/{shard.name}", ""
    for _ in range(ATTEMPTS):
        part.truncate(0)
        found = _copy(folder, shard, part)
        if found == shard.sha256:
            return
    raise DatasetError(
        f"{where}: shard is damaged: its sha256 is {found}, the manifest says {shard.sha256}; copy it there again, "
        "or build again with `packline build CONFIG --check`"
    )


def _copy(folder: Folder, shard: ShardFile, part: BinaryIO) -> str:
    """The sha256 of what came."""
    digest = hashlib.sha256()
    for chunk in _chunks(folder, shard):
        digest.update(chunk)
        part.write(chunk)
        part.flush()
    return digest.hexdigest()


def _chunks(folder: Folder, shard: ShardFile) -> Iterator[bytes]:
    """By ranges of the size in the manifest, so that the store is asked for nothing but bytes."""
    for start in range(0, shard.bytes, CHUNK_BYTES):
        try:
            yield folder.read_range(shard.name, start, min(start + CHUNK_BYTES, shard.bytes))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            where = f"{folder.shown}/{shard.name}"
            raise DatasetError(f"{where}: shard is missing; copy the whole data set") from error


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Raises DatasetError for what the cache's disk says. A store's own error is one."""
    try:
        yield
    except DatasetError:
        raise
    except OSError as error:
        raise DatasetError(
            f"{path}: the cache cannot be written ({error}); make room there, or give another folder as `cache.folder` "
            f"or in {VARIABLE}"
        ) from error
