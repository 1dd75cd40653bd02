"""One data set's packs, epoch after epoch, through the generations that its epochs read.

    epochs      0    1    2    3    4 ...
    segments    [generation 0, from 0] [generation 2, from 3]
    positions   0 ......................, the packs given so far

An epoch has all packs of its generation once, so a position is a pack as soon as the epochs' generations are known.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from train.order import PackOrder


class Segment(NamedTuple):
    """Epochs that read one generation, up to the first epoch of the segment after."""

    generation: int
    epoch: int


class Extent(NamedTuple):
    """A data set as it was at a generation: of the shards that it has now, the first."""

    id: str
    shard_packs: tuple[int, ...]
    tokens: int

    @property
    def packs(self) -> int:
        return sum(self.shard_packs)


@dataclass(frozen=True, slots=True)
class _Stretch:
    """A segment in the stream."""

    start: int  # packs given before it
    time: int  # when it begins, see train.mixture
    stride: int
    epoch: int
    packs: int  # of each epoch
    order: PackOrder


class Stream:
    """Segments with their extents and strides; the first begins with epoch 0."""

    def __init__(
        self,
        segments: Sequence[Segment],
        extents: Sequence[Extent],
        strides: Sequence[int],
        seed: int,
        shuffle_shards: int | None,
    ) -> None:
        assert segments[0].epoch == 0
        self._stretches: list[_Stretch] = []
        start, time, epoch = 0, 0, 0
        for segment, extent, stride in zip(segments, extents, strides, strict=True):
            if self._stretches:
                before = self._stretches[-1]
                given = (segment.epoch - epoch) * before.packs
                start, time, epoch = start + given, time + given * before.stride, segment.epoch
            order = PackOrder(extent.shard_packs, seed, shuffle_shards)
            self._stretches.append(_Stretch(start, time, stride, epoch, extent.packs, order))
        self._starts = [stretch.start for stretch in self._stretches]

    def take(self, start: int, end: int) -> Iterator[int]:
        """The numbers of the packs at the positions from start to before end."""
        for stretch, border in zip(self._stretches, [*self._starts[1:], end], strict=True):
            first, last = max(start, stretch.start), min(end, border)
            if first < last:
                place = stretch.epoch * stretch.packs + first - stretch.start
                yield from stretch.order.take(place, last - first).tolist()

    def due(self, position: int) -> int:
        """Twice the time at which the pack is due: in the middle of its stride."""
        stretch = self._at(position)
        return 2 * stretch.time + (2 * (position - stretch.start) + 1) * stretch.stride

    def epoch_of(self, position: int) -> int:
        stretch = self._at(position)
        return stretch.epoch + (position - stretch.start) // stretch.packs

    def end_of(self, epoch: int) -> int:
        """The packs that have been given when the epoch ends."""
        stretch = next(stretch for stretch in reversed(self._stretches) if stretch.epoch <= epoch)
        return stretch.start + (epoch + 1 - stretch.epoch) * stretch.packs

    def _at(self, position: int) -> _Stretch:
        return self._stretches[bisect_right(self._starts, position) - 1]
