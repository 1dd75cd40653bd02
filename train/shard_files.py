"""The files of a data set's shards on this machine, each checked in full before anything of it is used.

local folder ---------------> file --sha256, once a process--> path
store --ShardCache.fetch----> file --'
"""

import os

from schemas.errors import DatasetError
from schemas.manifest import ShardFile
from schemas.store import Folder
from train.cache import ShardCache, file_sha256


class ShardFiles:
    """Threads may share it."""

    def __init__(self, folder: Folder, cache: ShardCache) -> None:
        self._folder = folder
        self._cache = None if folder.is_local else cache
        self._root = str(folder.local_path("")) if folder.is_local else folder.shown
        self._checked: set[tuple[str, str]] = set()

    def where(self, name: str) -> str:
        """As messages have it."""
        return f"{self._root}/{name}"

    def check_size(self, shard: ShardFile) -> None:
        """Of a local file; a store is asked for nothing. Raises DatasetError for another size than the manifest's."""
        if self._cache is not None:
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

    def find(self, shard: ShardFile) -> str:
        """The path of a shard that is what the manifest says. Raises DatasetError for one that is not, or not there."""
        path = self._cache.fetch(self._folder, shard) if self._cache else self.where(shard.name)
        if (shard.name, shard.sha256) not in self._checked:
            if self._cache:
                self._check_cached(self._cache, shard, path)
            else:
                self._check(shard, path, "copy it again, or build again with `packline build CONFIG --check`")
            self._checked.add((shard.name, shard.sha256))
        return path

    def _check_cached(self, cache: ShardCache, shard: ShardFile, path: str) -> None:
        """A file that was damaged in the cache is fetched once more."""
        if _hash(path) != shard.sha256:
            cache.mend(self._folder, shard)
            self._check(shard, path, "the cache's disk is broken: give another folder as `cache.folder`")

    def _check(self, shard: ShardFile, path: str, advice: str) -> None:
        found = _hash(path)
        if found != shard.sha256:
            raise DatasetError(
                f"{path}: shard is damaged: its sha256 is {found}, that of {shard.name} in the manifest is "
                f"{shard.sha256}; {advice}"
            )


def _hash(path: str) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise DatasetError(f"{path}: shard is missing or unreadable ({error}); copy it again") from error
