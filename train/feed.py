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
from train.deal import Hand, deal_by_cost, deal_in_turn
from train.fetch_ahead import ShardsAhead
from train.flops import count_pairs
from train.groups import Groups
from train.mixture import Mixture, PackRef
from train.packs import ShardedPacks, find_borders

Item = TypeVar("Item")


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

    def load(self, steps: Callable[[], Iterable[Sequence[PackRef]]]) -> Iterator[Share]:
        """This rank's share of each step; every rank has as many micro-batches. `steps` gives the steps from the first
        one on whenever it is called. Raises DatasetError for a damaged shard, whichever rank's pack is in it."""
        with ShardsAhead(self.datasets, steps()) as shards:
            for packs in steps():
                shards.next_step()
                hand = self._deal(packs)
                places = [place for own in hand for place in own]
                yield Share(places, [self._batch([packs[place] for place in own]) for own in hand])

    def _deal(self, packs: Sequence[PackRef]) -> Hand:
        if self.balance and self.ranks > 1:
            return deal_by_cost([self._cost(ref) for ref in packs], self.ranks, self.packs_per_microbatch)[self.rank]
        return deal_in_turn(len(packs), self.ranks, self.packs_per_microbatch)[self.rank]

    def _cost(self, ref: PackRef) -> int:
        """What its attention costs: the pairs of a query and a key, those of the padding too, which are computed."""
        packs, row = self.datasets[ref.dataset].locate(ref.pack)
        borders = find_borders(packs.doc_lengths[packs.documents(row)], packs.input_ids.shape[1])
        return count_pairs(np.diff(borders).tolist(), self.windows)

    def _batch(self, packs: Sequence[PackRef]) -> Batch:
        entries = [self._entry(ref) for ref in packs]
        seq_len = self.datasets[0].manifest.seq_len
        rows = self.packs_per_microbatch
        batch = make_batch(entries, rows, seq_len, per_document=self.per_document, windows=self.windows)
        return batch.pin_memory() if self.pinned else batch

    def _entry(self, ref: PackRef) -> Entry:
        pack = self.datasets[ref.dataset][ref.pack]
        return Entry(pack, self.tables[ref.dataset], self.groups.firsts[ref.dataset], self.groups.by_source)


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

    def choose() -> Iterator[tuple[list[PackRef], tuple[int, ...]]]:
        return _choose_packs(mixture, taken, sizes, limits)

    loaded = feeder.load(lambda: (packs for packs, _ in choose()))
    for (packs, end), share in zip(choose(), loaded, strict=True):
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
    """Each item with the seconds that it was waited for; a thread makes the next one meanwhile. Who stops does not wait
    for that one: its shards may take minutes to come."""
    pool = ThreadPoolExecutor(1)
    try:
        coming = pool.submit(next, items, None)
        while True:
            since = monotonic()
            item = coming.result()
            if item is None:
                return
            coming = pool.submit(next, items, None)
            yield item, monotonic() - since
    finally:
        pool.shutdown(wait=False)
