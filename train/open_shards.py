"""The shards of one data set that a process has open: some kept for what is coming, some mapped for what is read."""

import mmap
from io import BufferedReader

import pyarrow as pa

from schemas.errors import DatasetError
from schemas.manifest import ShardFile
from schemas.shard import Shard, ShardMeta, read_shard
from train.shard_files import ShardFiles

MAPPED_SHARDS = 128
"""Each holds a file open, of which a process may usually have 1,024."""

RESIDENT_BYTES = 256 << 20
"""So much is mapped, at most, before its pages are given back. A page of a mapped file counts as the process's memory
for as long as it is mapped; without this a process would seem to grow to the size of what it has read (20,000 packs of
10 GB: 4.5 GiB instead of 0.1), and with it a pack costs 2 to 7 us more (docs/benchmarks.md)."""

BYTES_PER_TOKEN = 5  # input_ids and channel

AROUND_BYTES = 2 * (2 << 20)
"""Mapped along with a pack, at most: where the system holds a file in large folios, as one that was read from end to
end for its sha256, Linux maps 2 MiB around a page that is touched, here in each of two large arrays."""


class OpenShards:
    """Of the cache's shards, one that is kept or mapped is not evicted: the map is of the same open file, and so has
    its lock."""

    def __init__(self, files: ShardFiles, meta: ShardMeta) -> None:
        self.files = files
        self._meta = meta
        self._kept: dict[str, BufferedReader] = {}
        self._mapped: dict[str, tuple[mmap.mmap, Shard]] = {}  # the one not used for longest is the first
        self._touched: set[mmap.mmap] = set()
        self._touches, self._resident_packs = 0, RESIDENT_BYTES // (AROUND_BYTES + meta.seq_len * BYTES_PER_TOKEN)

    def prepare(self, shard: ShardFile) -> None:
        """Have a shard here and checked, and one of the cache kept; any thread may do it. Raises DatasetError for a
        damaged or missing one."""
        file = self.files.open(shard)
        if self.files.cache:
            self._kept[shard.name] = file
        else:
            file.close()

    def release(self, shard: ShardFile) -> None:
        """It need not be kept any more. What is in use of a map stays."""
        kept = self._kept.pop(shard.name, None)
        if kept is None:
            return  # a folder's stays mapped as long as it is one of the last used
        kept.close()
        if mapped := self._mapped.pop(shard.name, None):
            self._touched.discard(mapped[0])

    def map(self, shard: ShardFile) -> Shard:
        """Raises DatasetError for a shard that is not what the manifest says."""
        found = self._mapped.pop(shard.name, None) or self._map(shard)
        self._mapped[shard.name] = found
        if len(self._mapped) > MAPPED_SHARDS:
            del self._mapped[next(iter(self._mapped))]
        self._touch(found[0])
        return found[1]

    def _map(self, file: ShardFile) -> tuple[mmap.mmap, Shard]:
        with self.files.open(file) as opened:
            path, memory = str(opened.name), _map_file(opened)
        shard = read_shard(pa.py_buffer(memory), path)
        if shard.meta != self._meta:
            raise DatasetError(
                f"{path}: {shard.meta} is not what the manifest says, {self._meta}; rebuild the data set"
            )
        if len(shard) != file.packs:
            raise DatasetError(f"{path}: {len(shard)} packs, the manifest says {file.packs}; rebuild the data set")
        return memory, shard

    def _touch(self, memory: mmap.mmap) -> None:
        self._touched.add(memory)
        self._touches += 1
        if self._touches > self._resident_packs:
            touched, self._touched, self._touches = self._touched, set(), 0
            for each in touched:
                each.madvise(mmap.MADV_DONTNEED)  # views stay valid: the system reads the page again


def _map_file(file: BufferedReader) -> mmap.mmap:
    """Not by Arrow's own mapping, which has the whole shard read in advance."""
    try:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        raise DatasetError(f"{file.name}: shard is missing or unreadable ({error}); copy the data set again") from error
