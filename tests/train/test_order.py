"""The order of packs is a permutation, decided by the seed alone."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from train.order import PackOrder

SEEDS = st.integers(0, 2**63 - 1)
SHARDS = st.lists(st.integers(0, 300), min_size=1, max_size=12).filter(any)
WINDOWS = st.none() | st.integers(1, 13)


@given(shards=SHARDS, window=WINDOWS, seed=SEEDS, epoch=st.integers(0, 1000))
@example(shards=[1], window=None, seed=0, epoch=0)
@example(shards=[1025], window=1, seed=2**63 - 1, epoch=1)
def test_every_epoch_is_a_permutation(shards: list[int], window: int | None, seed: int, epoch: int) -> None:
    packs = sum(shards)
    order = PackOrder(shards, seed, window).take(epoch * packs, packs)
    assert np.array_equal(np.sort(order), np.arange(packs))


@given(
    shards=st.lists(st.integers(1, 10**11), min_size=1, max_size=9),
    window=WINDOWS,
    seed=SEEDS,
    start=st.integers(0, 10**13),
    cut=st.integers(0, 9),
)
def test_a_stretch_does_not_depend_on_how_it_is_taken(
    shards: list[int], window: int | None, seed: int, start: int, cut: int
) -> None:
    order = PackOrder(shards, seed, window)
    whole = order.take(start, 9)
    assert np.array_equal(whole, np.concatenate([order.take(start, cut), order.take(start + cut, 9 - cut)]))
    assert whole.min() >= 0
    assert whole.max() < sum(shards)


@given(shards=st.lists(st.integers(1, 40), min_size=2, max_size=12), window=st.integers(1, 5), seed=SEEDS)
def test_a_window_is_of_so_many_shards_and_done_before_the_next(shards: list[int], window: int, seed: int) -> None:
    shard_of = np.repeat(np.arange(len(shards)), shards)
    visited = shard_of[PackOrder(shards, seed, window).take(0, sum(shards))].tolist()
    done = 0
    while done < len(visited):
        here = set(visited[done : done + 1])
        while (end := done + sum(shards[shard] for shard in here)) and (more := set(visited[done:end])) != here:
            here = more
        assert set(visited[done:end]).isdisjoint(visited[end:])
        assert len(here) <= window
        done = end


def test_shards_come_in_another_order_in_each_epoch() -> None:
    """With a window of one the shards are seen one after the other."""
    order, shards = PackOrder([10] * 50, 3, shuffle_shards=1), []
    for epoch in range(4):
        visited = order.take(epoch * 500, 500) // 10
        assert np.array_equal(visited, np.repeat(visited[::10], 10))
        shards.append(tuple(visited[::10].tolist()))
    assert len(set(shards)) == 4


def test_seeds_and_epochs_give_other_orders() -> None:
    orders = [PackOrder([300, 700], seed).take(epoch * 1000, 1000) for seed in range(3) for epoch in range(3)]
    for number, order in enumerate(orders):
        assert np.count_nonzero(order == np.arange(1000)) < 20
        assert all(np.count_nonzero(order == other) < 20 for other in orders[:number])


def test_the_order_never_changes_between_versions() -> None:
    assert PackOrder([3, 5, 2], seed=0).take(0, 20).tolist() == PINNED
    assert PackOrder([3, 5, 2], seed=0, shuffle_shards=2).take(0, 10).tolist() == PINNED_WINDOWS


def test_neighbours_are_spread() -> None:
    """The distance of packs that follow each other is that of random ones: a third of the data set."""
    order = PackOrder([10_000] * 10, seed=5).take(0, 100_000)
    assert 0.32 < np.abs(np.diff(order)).mean() / 100_000 < 0.35


PINNED = [4, 2, 1, 8, 6, 9, 0, 3, 7, 5, 2, 1, 6, 4, 5, 0, 7, 3, 9, 8]
PINNED_WINDOWS = [4, 5, 7, 8, 6, 9, 3, 1, 2, 0]
