"""Shards of data sets on stores, kept on this machine and shared by all processes and runs that use the folder.

    CACHE/SHA256          a shard, whole: a file gets this name when its bytes have been found to be those of the name
    CACHE/SHA256.part     one that is being fetched, locked by whoever fetches it

A name says what the file holds, so equal shards of two data sets are one file, and no name of a manifest becomes a
path here. The system gives a lock back when its holder dies; what is left of its file is fetched over, or removed.
"""

import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from schemas.errors import DatasetError
from schemas.manifest import ShardFile
from schemas.store import Folder
from train.evict import PART, find_limit, is_at, make_room, open_used
from train.fetch import fetch_shard

VARIABLE = "PACKLINE_CACHE"
DEFAULT_FOLDER = "~/.cache/packline/shards"

GIB = 1 << 30

_log = logging.getLogger("packline.cache")


def file_sha256(path: str | Path) -> str:
    """It is read and not mapped: a disk's error is then an OSError, and none of it counts as the process's memory."""
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def default_folder() -> Path:
    return Path(os.environ.get(VARIABLE) or DEFAULT_FOLDER).expanduser()


class ShardCache:
    """Safe for concurrent threads, processes and runs.

    At most `max_bytes` are kept, or as many as leave a tenth of the disk free, and more where more is in use.
    """

    def __init__(self, folder: Path, max_bytes: int | None = None) -> None:
        self.folder, self.max_bytes = folder, max_bytes

    def path(self, shard: ShardFile) -> Path:
        return self.folder / shard.sha256

    def limit(self) -> int:
        """The bytes that may be kept, by what the disk has now. Raises DatasetError where there can be no folder."""
        with _writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            return find_limit(self.folder, self.max_bytes)

    def open(self, folder: Folder, shard: ShardFile) -> BufferedReader:
        """The shard's file, which is fetched from `folder` unless it is there, and stays there while it is open or
        mapped.

        Where another process fetches it, that is waited for. Raises DatasetError where the store has no such file, or
        twice gave other bytes than the manifest says, and where the cache cannot be written.
        """
        path = self.path(shard)
        with _writing(path):
            file = open_used(path)
            while file is None:
                with self._part(shard) as part:
                    if not path.exists():
                        self._fetch(folder, shard, part)
                    file = open_used(path)
            return file

    def mend(self, folder: Folder, shard: ShardFile) -> None:
        """Fetch a damaged file again, unless another process has by now. Who has the old one mapped keeps what it maps.
        Raises DatasetError as `open` does."""
        path = self.path(shard)
        with _writing(path), self._part(shard) as part:
            if not path.exists() or file_sha256(path) != shard.sha256:
                self._fetch(folder, shard, part)

    def _fetch(self, folder: Folder, shard: ShardFile, part: BinaryIO) -> None:
        part.truncate(shard.bytes)  # so that other processes count all of it
        if make_room(self.folder, self.max_bytes):
            _warn_of_use(self.folder, self.max_bytes)
        fetch_shard(folder, shard, part)
        os.rename(part.name, self.path(shard))
        fcntl.flock(part, fcntl.LOCK_SH)  # it is not evicted before it is opened

    @contextmanager
    def _part(self, shard: ShardFile) -> Iterator[BinaryIO]:
        """The file to fetch into, no other process's until it is left."""
        name = f"{self.path(shard)}{PART}"
        self.folder.mkdir(parents=True, exist_ok=True)
        part = _open_locked(name)
        try:
            yield part
        finally:
            if is_at(part, name):
                os.unlink(name)
            fcntl.flock(part, fcntl.LOCK_UN)  # a child that was forked meanwhile has the file open, too
            part.close()


def _open_locked(name: str) -> BinaryIO:
    """A file that was renamed or removed while its lock was waited for is not at its name any more: take a new one.

    It is waited for by a shared lock: when it is a shard by then, those who use it share it, for as long as they do.
    """
    while True:
        part = open(name, "r+b", opener=_create)  # noqa: SIM115
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(part, fcntl.LOCK_SH)
        else:
            if is_at(part, name):
                return part
            fcntl.flock(part, fcntl.LOCK_UN)
        part.close()


def _create(name: str, flags: int) -> int:
    """Neither truncated nor appended to: it may be another process's."""
    return os.open(name, flags | os.O_CREAT, 0o666)


@lru_cache
def _warn_of_use(folder: Path, max_bytes: int | None) -> None:
    """Once."""
    found = (
        f"the shards in use are more than `cache.max_gib` {max_bytes / GIB:g}"
        if max_bytes is not None
        else ("with the shards in use less than a tenth of the disk is free")
    )
    advice = "they stay; give the cache more room, or lower `shuffle_shards` or `packs_per_step`"
    _log.warning("%s: %s; %s", folder, found, advice)


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
