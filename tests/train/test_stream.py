"""One data set's stream through generations: an epoch has each pack of its generation once, in the seed's order."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.order import PackOrder
from train.stream import Extent, Segment, Stream

SHARDS = st.lists(st.integers(1, 9), min_size=1, max_size=3)


@dataclass(frozen=True)
class Growth:
    """For each generation the shards that it adds; for each epoch the generation that it reads."""

    shards: list[list[int]]
    epochs: list[int]

    def extent(self, generation: int) -> Extent:
        packs = tuple(packs for own in self.shards[: generation + 1] for packs in own)
        return Extent("id", packs, 10 * sum(packs))

    def stream(self, seed: int, window: int | None = None) -> Stream:
        segments = [
            Segment(generation, epoch)
            for epoch, generation in enumerate(self.epochs)
            if epoch == 0 or self.epochs[epoch - 1] != generation
        ]
        extents = [self.extent(segment.generation) for segment in segments]
        return Stream(segments, extents, [60 // extent.packs or 1 for extent in extents], seed, window)


@st.composite
def growths(draw: st.DrawFn) -> Growth:
    shards = draw(st.lists(SHARDS, min_size=1, max_size=3))
    epochs = draw(st.lists(st.integers(0, len(shards) - 1), min_size=1, max_size=5))
    return Growth(shards, sorted(epochs))


@given(growth=growths(), seed=st.integers(0, 2**63 - 1), window=st.none() | st.integers(1, 3), data=st.data())
def test_a_stream_is_its_epochs_one_after_the_other(
    growth: Growth, seed: int, window: int | None, data: st.DataObject
) -> None:
    stream, expected = growth.stream(seed, window), []
    for epoch, generation in enumerate(growth.epochs):
        extent = growth.extent(generation)
        whole = PackOrder(extent.shard_packs, seed, window).take(epoch * extent.packs, extent.packs).tolist()
        assert sorted(whole) == list(range(extent.packs))
        assert {stream.epoch_of(len(expected)), stream.epoch_of(len(expected) + extent.packs - 1)} == {epoch}
        expected += whole
        assert stream.end_of(epoch) == len(expected)
    start = data.draw(st.integers(0, len(expected)))
    end = data.draw(st.integers(start, len(expected)))
    assert list(stream.take(start, end)) == expected[start:end]
    times = [stream.due(position) for position in range(len(expected))]
    assert times == sorted(set(times))


def test_the_time_of_an_epoch_begins_where_the_one_before_ends() -> None:
    """Strides of 30 and then of 12; twice the time, in the middle of each stride."""
    stream = Growth([[2], [3]], [0, 1]).stream(0)
    assert [stream.due(position) for position in range(4)] == [30, 90, 120 + 12, 120 + 36]


@pytest.mark.parametrize("position", [0, 7, 10**12])
def test_a_segment_of_the_same_generation_changes_nothing(position: int) -> None:
    extent = Extent("id", (3, 5), 80)
    one = Stream([Segment(0, 0)], [extent], [7], 3, None)
    two = Stream([Segment(0, 0), Segment(0, 2)], [extent] * 2, [7, 7], 3, None)
    assert list(one.take(position, position + 20)) == list(two.take(position, position + 20))
    assert [one.due(position + more) for more in range(20)] == [two.due(position + more) for more in range(20)]
