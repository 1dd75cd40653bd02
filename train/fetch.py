"""The bytes of one shard from its store: ranges side by side, as one alone leaves the network idle while it waits."""

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import BinaryIO

from schemas.errors import ConfigError, DatasetError
from schemas.manifest import ShardFile
from schemas.store import Folder

CHUNK_BYTES = 8 << 20

CHUNKS = 4
"""So many are asked for at a time, and are in memory. At 8 MiB and 100 ms a chunk one alone would get 30 MB/s of 50."""

ATTEMPTS = 2
"""The store's library tries again where a request fails; this is for answers that were wrong."""


def fetch_shard(folder: Folder, shard: ShardFile, part: BinaryIO) -> None:
    """Write a shard into a file. Raises DatasetError where the store has no such file, or twice gave other bytes than
    the manifest says."""
    where, found = f"{folder.shown}/{shard.name}", ""
    for _ in range(ATTEMPTS):
        part.seek(0)
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
    """In order. By ranges of the size in the manifest, so that the store is asked for nothing but bytes."""
    starts = iter(range(0, shard.bytes, CHUNK_BYTES))
    coming: deque[Future[bytes]] = deque()
    with ThreadPoolExecutor(CHUNKS) as pool:
        for start in islice(starts, CHUNKS):
            coming.append(pool.submit(_read, folder, shard, start))
        while coming:
            chunk = coming.popleft().result()
            for start in islice(starts, 1):
                coming.append(pool.submit(_read, folder, shard, start))
            yield chunk


def _read(folder: Folder, shard: ShardFile, start: int) -> bytes:
    try:
        return folder.read_range(shard.name, start, min(start + CHUNK_BYTES, shard.bytes))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        where = f"{folder.shown}/{shard.name}"
        raise DatasetError(f"{where}: shard is missing; copy the whole data set") from error
    except ConfigError as error:  # the profile was there at the start
        raise DatasetError(str(error)) from error
