"""What a rank computes in each step, read one step ahead."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from train.batch import Batch, Entry, make_batch
from train.groups import Groups
from train.mixture import Mixture, PackRef
from train.order import deal
from train.packs import ShardedPacks

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Feeder:
    """Data sets as one rank reads them."""

    datasets: Sequence[ShardedPacks]
    tables: Sequence[npt.NDArray[np.bool_]]  # their loss policies
    groups: Groups
    rank: int
    ranks: int
    packs_per_microbatch: int
    per_document: bool
    pinned: bool

    def load(self, packs: Sequence[PackRef]) -> list[Batch]:
        """This rank's micro-batches of a step; every rank has as many."""
        return [self._batch(own) for own in deal(packs, self.rank, self.ranks, self.packs_per_microbatch)]

    def _batch(self, packs: Sequence[PackRef]) -> Batch:
        entries = [self._entry(ref) for ref in packs]
        seq_len = self.datasets[0].manifest.seq_len
        batch = make_batch(entries, self.packs_per_microbatch, seq_len, per_document=self.per_document)
        return batch.pin_memory() if self.pinned else batch

    def _entry(self, ref: PackRef) -> Entry:
        pack = self.datasets[ref.dataset][ref.pack]
        return Entry(pack, self.tables[ref.dataset], self.groups.firsts[ref.dataset], self.groups.by_source)


@dataclass(frozen=True, slots=True)
class StepData:
    packs: list[PackRef]  # of all ranks
    taken: tuple[int, ...]  # packs of each data set up to the end of this step: the state of the data
    microbatches: list[Batch]  # of this rank


def feed_steps(feeder: Feeder, mixture: Mixture, taken: tuple[int, ...], sizes: Sequence[int]) -> Iterator[StepData]:
    """The data of the steps that follow `taken`; sizes: the number of packs of each."""
    for size in sizes:
        packs, taken = mixture.take(taken, size)
        yield StepData(packs, taken, feeder.load(packs))


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
