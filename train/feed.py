"""What a rank computes in each step, read one step ahead; its shards are fetched and checked further ahead."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import tee
from time import monotonic
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from schemas.errors import DatasetError
from train.batch import Batch, Entry, make_batch
from train.deal import Hand, deal_by_cost, deal_in_turn
from train.flops import count_pairs
from train.groups import Groups
from train.mixture import Mixture, PackRef
from train.packs import ShardedPacks, find_borders

Item = TypeVar("Item")

STEPS_AHEAD = 4
"""So many steps' shards are made ready after those of the step that is being read."""

THREADS = 4
"""That fetch and check shards. Hashing gives up the interpreter's lock."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one rank has of a step."""

    places: list[int]  # in the step, of its packs, which are the rows of its micro-batches
    microbatches: list[Batch]


@dataclass(frozen=True, slots=True)
class Feeder:
    """Data sets as one rank reads them."""

    datasets: Sequence[ShardedPacks]
    tables: Sequence[npt.NDArray[np.bool_]]  # their loss policies
    groups: Groups
    rank: int
    ranks: int
    packs_per_microbatch: int
    balance: bool  # deal packs by cost, which is read of all packs of a step, else in turn
    per_document: bool
    pinned: bool
    windows: Sequence[int | None] = (None,)  # those of the model's layers

    def load(self, steps: Iterable[Sequence[PackRef]]) -> Iterator[Share]:
        """This rank's share of each step; every rank has as many micro-batches. Raises DatasetError for a damaged
        shard."""
        pool = ThreadPoolExecutor(THREADS)
        shards = _ShardsAhead(self.datasets, pool)
        coming: deque[tuple[Sequence[PackRef], list[Future[None]]]] = deque()
        ahead = 0  # the first step waits for its own shards alone
        try:
            for packs in steps:
                coming.append((packs, shards.prepare(self._read(packs))))
                if len(coming) > ahead:
                    yield self._load(*coming.popleft())
                    ahead = min(ahead + 1, STEPS_AHEAD)
            while coming:
                yield self._load(*coming.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # a run that stops does not wait for what it fetches

    def _read(self, packs: Sequence[PackRef]) -> Sequence[PackRef]:
        """Those of a step's packs of which this rank reads anything."""
        return packs if self._by_cost else [packs[place] for own in self._deal(packs) for place in own]

    def _load(self, packs: Sequence[PackRef], shards: Sequence[Future[None]]) -> Share:
        for shard in shards:
            shard.result()
        hand = self._deal(packs)
        places = [place for own in hand for place in own]
        return Share(places, [self._batch([packs[place] for place in own]) for own in hand])

    @property
    def _by_cost(self) -> bool:
        return self.balance and self.ranks > 1

    def _deal(self, packs: Sequence[PackRef]) -> Hand:
        if self._by_cost:
            return deal_by_cost([self._cost(ref) for ref in packs], self.ranks, self.packs_per_microbatch)[self.rank]
        return deal_in_turn(len(packs), self.ranks, self.packs_per_microbatch)[self.rank]

    def _cost(self, ref: PackRef) -> int:
        """What its attention costs: the pairs of a query and a key, also those of the padding, which is computed."""
        packs, row = self.datasets[ref.dataset].locate(ref.pack)
        borders = find_borders(packs.doc_lengths[packs.documents(row)], packs.input_ids.shape[1])
        return count_pairs(np.diff(borders).tolist())

    def _batch(self, packs: Sequence[PackRef]) -> Batch:
        entries = [self._entry(ref) for ref in packs]
        seq_len = self.datasets[0].manifest.seq_len
        rows = self.packs_per_microbatch
        batch = make_batch(entries, rows, seq_len, per_document=self.per_document, windows=self.windows)
        return batch.pin_memory() if self.pinned else batch

    def _entry(self, ref: PackRef) -> Entry:
        pack = self.datasets[ref.dataset][ref.pack]
        return Entry(pack, self.tables[ref.dataset], self.groups.firsts[ref.dataset], self.groups.by_source)


class _ShardsAhead:
    """Shards that threads make ready, none by two threads at a time."""

    def __init__(self, datasets: Sequence[ShardedPacks], pool: ThreadPoolExecutor) -> None:
        self._datasets, self._pool = datasets, pool
        self._coming: dict[tuple[int, int], Future[None]] = {}

    def prepare(self, packs: Iterable[PackRef]) -> list[Future[None]]:
        """One for each shard that the packs are in."""
        self._coming = {shard: future for shard, future in self._coming.items() if not future.done()}
        shards = dict.fromkeys((ref.dataset, self._datasets[ref.dataset].shard_of(ref.pack)) for ref in packs)
        for dataset, index in shards:
            if (dataset, index) not in self._coming:
                self._coming[dataset, index] = self._pool.submit(self._datasets[dataset].prepare, index)
        return [self._coming[shard] for shard in shards]


@dataclass(frozen=True, slots=True)
class StepData:
    packs: list[PackRef]  # of all ranks
    taken: tuple[int, ...]  # packs of each data set up to the end of this step: the state of the data
    places: list[int]  # in `packs`, of this rank's, which are the rows of its micro-batches
    microbatches: list[Batch]  # of this rank


def feed_steps(
    feeder: Feeder, mixture: Mixture, taken: tuple[int, ...], sizes: Sequence[int], limits: Sequence[float]
) -> Iterator[StepData]:
    """The data of the steps that follow `taken`; sizes: the number of packs of each. It ends before a step after
    which a data set had given more than its limit."""
    steps, ahead = tee(_choose_packs(mixture, taken, sizes, limits))
    for (packs, end), share in zip(steps, feeder.load(packs for packs, _ in ahead), strict=True):
        yield StepData(packs, end, share.places, share.microbatches)


def _choose_packs(
    mixture: Mixture, taken: tuple[int, ...], sizes: Sequence[int], limits: Sequence[float]
) -> Iterator[tuple[list[PackRef], tuple[int, ...]]]:
    for size in sizes:
        packs, taken = mixture.take(taken, size)
        if any(given > limit for given, limit in zip(taken, limits, strict=True)):
            return
        yield packs, taken


OrError: TypeAlias = Item | DatasetError


def end_in_error(items: Iterator[Item]) -> Iterator[OrError[Item]]:
    """The items; an error is the last of them and not raised, so that a rank can tell the others before it stops."""
    try:
        yield from items
    except DatasetError as error:
        yield error


def of_another_rank() -> DatasetError:
    return DatasetError("another rank cannot read its packs; its own message says why")


def read_ahead(items: Iterator[Item]) -> Iterator[tuple[Item, float]]:
    """Each item with the seconds that it was waited for; a thread makes the next one meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while True:
            since = monotonic()
            item = coming.result()
            if item is None:
                return
            coming = pool.submit(next, items, None)
            yield item, monotonic() - since
