"""What a rank computes in each step, read one step ahead; shards are made ready further ahead."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from schemas.errors import DatasetError
from train.batch import Batch, Entry, make_batch
from train.fetch_ahead import ShardsAhead
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

    def load(self, steps: Callable[[], Iterable[Sequence[PackRef]]]) -> Iterator[list[Batch]]:
        """This rank's micro-batches of each step; every rank has as many. `steps` gives the steps from the first one
        on whenever it is called. Raises DatasetError for a damaged shard, whichever rank's pack is in it."""
        with ShardsAhead(self.datasets, steps()) as shards:
            for packs in steps():
                shards.next_step()
                own = deal(packs, self.rank, self.ranks, self.packs_per_microbatch)
                yield [self._batch(part) for part in own]

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


def feed_steps(
    feeder: Feeder, mixture: Mixture, taken: tuple[int, ...], sizes: Sequence[int], limits: Sequence[float]
) -> Iterator[StepData]:
    """The data of the steps that follow `taken`; sizes: the number of packs of each. It ends before a step after
    which a data set had given more than its limit."""

    def choose() -> Iterator[tuple[list[PackRef], tuple[int, ...]]]:
        return _choose_packs(mixture, taken, sizes, limits)

    loaded = feeder.load(lambda: (packs for packs, _ in choose()))
    for (packs, end), microbatches in zip(choose(), loaded, strict=True):
        yield StepData(packs, end, microbatches)


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
