"""Shards made ready before the steps that read them: here, checked, and kept from eviction until they were read.

steps --LookAhead--> shards in the order of their first use --threads--> files

All ranks of a node want the same shards in the same order, and none takes one up before those that come first. So each
has its threads at the first few that are missing, one of them fetches each, and the others wait for it: together they
fetch as many at a time as one of them has threads.
"""

import contextlib
import resource
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from train.cache import GIB
from train.look_ahead import LookAhead, Reach, ShardRef
from train.mixture import PackRef
from train.packs import ShardedPacks

THREADS = 4
"""That fetch and check shards of stores, and as many that check those of folders. Hashing gives up the interpreter's
lock."""

STEPS_AHEAD = 4
"""Shards of a folder are checked so many steps before the one that reads them: there is nothing to wait for."""

TOKENS_AHEAD = 1 << 31
"""Shards of stores are fetched so far before they are read; 10 GB of them. That is more than a window, mostly, and ten
hours of eight GPUs."""

FILES = 1 << 14
"""Each shard that is mapped or kept holds one open."""

LOOKS = 16
"""Steps that are looked at for each step that is read, until the reach is reached."""


class ShardsAhead:
    """Of the steps in their order. To be left, so that nothing is fetched or kept any more."""

    def __init__(self, datasets: Sequence[ShardedPacks], steps: Iterable[Sequence[PackRef]]) -> None:
        self._datasets = datasets
        self._ahead = LookAhead(steps, self._shard_of, self._bytes_of, find_reach(datasets))
        self._ready: dict[ShardRef, Future[None]] = {}
        self._fetching, self._checking = ThreadPoolExecutor(THREADS), ThreadPoolExecutor(THREADS)

    def next_step(self) -> None:
        """Wait for the shards of the next step; those that were read are given up. Raises DatasetError for one that is
        damaged or missing."""
        for shard in self._ahead.move():
            del self._ready[shard]
            self._give_up(shard)
        needed = self._ahead.first(1)
        for shard in needed:
            if shard in self._ready and _has_failed(self._ready[shard]):
                self._ready[shard] = self._prepare_again(shard)
        self._prepare(needed)
        for shard in needed:
            self._ready[shard].result()
        # the first step waits for its own shards alone
        self._prepare(shard for shard in self._ahead.look(LOOKS) if self._bytes_of(shard))
        self._prepare(self._ahead.first(1 + STEPS_AHEAD))

    def _prepare(self, shards: Iterable[ShardRef]) -> None:
        for shard in shards:
            if shard not in self._ready:
                pool = self._fetching if self._bytes_of(shard) else self._checking
                self._ready[shard] = pool.submit(self._datasets[shard.dataset].prepare, shard.shard)

    def _prepare_again(self, shard: ShardRef) -> Future[None]:
        """What could not be read some hours ago. By this thread: the others have those that come later to fetch."""
        self._datasets[shard.dataset].prepare(shard.shard)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _shard_of(self, ref: PackRef) -> ShardRef:
        return ShardRef(ref.dataset, self._datasets[ref.dataset].shard_of(ref.pack))

    def _bytes_of(self, shard: ShardRef) -> int:
        return self._datasets[shard.dataset].cached_bytes(shard.shard)

    def __enter__(self) -> "ShardsAhead":
        return self

    def __exit__(self, *_: object) -> None:
        """A run that stops does not wait for what it fetches."""
        for pool in (self._fetching, self._checking):
            pool.shutdown(wait=False, cancel_futures=True)
        for shard, future in self._ready.items():
            future.add_done_callback(partial(self._give_up, shard))

    def _give_up(self, shard: ShardRef, _: object = None) -> None:
        self._datasets[shard.dataset].release(shard.shard)


def _has_failed(future: Future[None]) -> bool:
    return future.done() and future.exception() is not None


def raise_file_limit() -> None:
    """Let this process have more files open, as far as the system does: the 1,024 that it usually may are too few for
    mixtures of many data sets, and for steps with packs of many shards."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if most == resource.RLIM_INFINITY else min(FILES, most)
    if now != resource.RLIM_INFINITY and now < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def find_reach(datasets: Sequence[ShardedPacks]) -> Reach:
    """Half of what the cache may hold: the rest is for other runs, and for what may be used again. A quarter of the
    files that may be open."""
    limits = [dataset.cache.limit() for dataset in datasets if dataset.cached_bytes(0)]
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Reach(
        steps=sys.maxsize if limits else 1 + STEPS_AHEAD,
        packs=TOKENS_AHEAD // datasets[0].manifest.seq_len,
        shards=files // 4 if files != resource.RLIM_INFINITY else sys.maxsize,
        bytes=min(limits, default=0) // 2,
    )


def describe_want(datasets: Sequence[ShardedPacks], shuffle_shards: int | None) -> str | None:
    """What there is to say where the cache has no room for the windows that are read and those after them."""
    want = 0
    for dataset in datasets:
        sizes = sorted(map(dataset.cached_bytes, range(len(dataset.shards))), reverse=True)
        want += sum(sizes[: 2 * (shuffle_shards or len(sizes))])
    room = find_reach(datasets).bytes
    if want <= room:
        return None
    return (
        f"the cache's half for what is ahead is {room / GIB:.2g} GiB, and two windows of shards are {want / GIB:.2g}: "
        "steps will wait for shards, or fetch them again; raise `cache.max_gib` or lower `shuffle_shards`"
    )
