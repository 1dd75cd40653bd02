"""The files of a data set's shards on this machine, each checked in full before anything of it is used.

local folder --------------> file --sha256, once a process and file--> open file
store --ShardCache.open---> file --'
"""

import hashlib
import os
from io import BufferedReader
from typing import NamedTuple

from schemas.errors import DatasetError
from schemas.manifest import ShardFile
from schemas.store import Folder
from train.cache import ShardCache


class _Identity(NamedTuple):
    """Tells a file from one that took its place, or that was written since."""

    device: int
    inode: int
    size: int
    modified: int


class ShardFiles:
    """Threads may share it."""

    def __init__(self, folder: Folder, cache: ShardCache) -> None:
        self._folder = folder
        self.cache = None if folder.is_local else cache
        self._root = str(folder.local_path("")) if folder.is_local else folder.shown
        self._checked: dict[tuple[str, str], _Identity] = {}

    def where(self, name: str) -> str:
        """As messages have it."""
        return f"{self._root}/{name}"

    def check_size(self, shard: ShardFile) -> None:
        """Of a local file; a store is asked for nothing. Raises DatasetError for another size than the manifest's."""
        if self.cache is not None:
            return
        path = self.where(shard.name)
        try:
            size = os.stat(path).st_size
        except OSError as error:
            raise DatasetError(f"{path}: shard is missing or unreadable ({error}); copy the whole data set") from error
        if size != shard.bytes:
            raise DatasetError(
                f"{path}: the file has {size} bytes, the manifest says {shard.bytes}; "
                "copy the data set again, or rebuild it"
            )

    def open(self, shard: ShardFile) -> BufferedReader:
        """The file of a shard that is what the manifest says; one of the cache stays there while it is open or mapped.
        Raises DatasetError for one that is not, or not there."""
        file = self._open(shard)
        found = self._sha256(file, shard)
        if found != shard.sha256 and self.cache:
            file.close()
            self.cache.mend(self._folder, shard)
            file = self._open(shard)
            found = self._sha256(file, shard)
        if found != shard.sha256:
            file.close()
            raise self._damaged(shard, str(file.name), found)
        return file

    def _open(self, shard: ShardFile) -> BufferedReader:
        if self.cache:
            return self.cache.open(self._folder, shard)
        path = self.where(shard.name)
        try:
            return open(path, "rb")
        except OSError as error:
            raise _unreadable(path, error) from error

    def _sha256(self, file: BufferedReader, shard: ShardFile) -> str:
        """Not computed of a file that was found to be right, and has not changed since."""
        key, identity = (shard.name, shard.sha256), _identify(file)
        if self._checked.get(key) == identity:
            return shard.sha256
        found = _hash(file)
        if found == shard.sha256:
            self._checked[key] = identity
        return found

    def _damaged(self, shard: ShardFile, path: str, found: str) -> DatasetError:
        advice = "copy it again, or build again with `packline build CONFIG --check`"
        if self.cache:
            advice = "the cache's disk is broken: give another folder as `cache.folder`"
        return DatasetError(
            f"{path}: shard is damaged: its sha256 is {found}, that of {shard.name} in the manifest is "
            f"{shard.sha256}; {advice}"
        )


def _identify(file: BufferedReader) -> _Identity:
    found = os.fstat(file.fileno())
    return _Identity(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _hash(file: BufferedReader) -> str:
    try:
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(file.name, error) from error


def _unreadable(path: str, error: OSError) -> DatasetError:
    return DatasetError(f"{path}: shard is missing or unreadable ({error}); copy it again")
