"""The order of packs is a permutation, decided by the seed alone."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from train.order import PackOrder, deal

SEEDS = st.integers(0, 2**63 - 1)


@given(packs=st.integers(1, 3000), seed=SEEDS, epoch=st.integers(0, 1000))
@example(packs=1, seed=0, epoch=0)
@example(packs=1025, seed=2**63 - 1, epoch=1)
def test_every_epoch_is_a_permutation(packs: int, seed: int, epoch: int) -> None:
    order = PackOrder(packs, seed).take(epoch * packs, packs)
    assert np.array_equal(np.sort(order), np.arange(packs))


@given(packs=st.integers(1, 10**12), seed=SEEDS, start=st.integers(0, 10**13), cut=st.integers(0, 9))
def test_a_stretch_does_not_depend_on_how_it_is_taken(packs: int, seed: int, start: int, cut: int) -> None:
    order = PackOrder(packs, seed)
    whole = order.take(start, 9)
    assert np.array_equal(whole, np.concatenate([order.take(start, cut), order.take(start + cut, 9 - cut)]))
    assert whole.min() >= 0
    assert whole.max() < packs


def test_seeds_and_epochs_give_other_orders() -> None:
    orders = [PackOrder(1000, seed).take(epoch * 1000, 1000) for seed in range(3) for epoch in range(3)]
    for number, order in enumerate(orders):
        assert np.count_nonzero(order == np.arange(1000)) < 20
        assert all(np.count_nonzero(order == other) < 20 for other in orders[:number])


def test_the_order_never_changes_between_versions() -> None:
    assert PackOrder(10, seed=0).take(0, 20).tolist() == PINNED


def test_neighbours_are_spread() -> None:
    """The distance of packs that follow each other is that of random ones: a third of the data set."""
    order = PackOrder(100_000, seed=5).take(0, 100_000)
    assert 0.32 < np.abs(np.diff(order)).mean() / 100_000 < 0.35


@given(packs=st.integers(1, 40), ranks=st.integers(1, 9), size=st.integers(1, 5))
def test_dealing_loses_nothing_and_gives_all_ranks_as_many_microbatches(packs: int, ranks: int, size: int) -> None:
    numbers = np.arange(packs, dtype=np.int64)
    dealt = [deal(numbers, rank, ranks, size) for rank in range(ranks)]
    assert sorted(int(pack) for mine in dealt for batch in mine for pack in batch) == numbers.tolist()
    assert len({len(mine) for mine in dealt}) == 1
    assert all(len(batch) <= size for mine in dealt for batch in mine)


def test_the_packs_of_a_step_are_the_same_for_any_number_of_ranks() -> None:
    step = PackOrder(100, seed=1).take(24, 12)
    for ranks in (1, 2, 3, 5, 16):
        dealt = [pack for rank in range(ranks) for batch in deal(step, rank, ranks, 1) for pack in batch]
        assert sorted(dealt) == sorted(step)


PINNED = [8, 5, 3, 1, 6, 7, 0, 4, 2, 9] + [3, 9, 0, 7, 8, 5, 1, 2, 6, 4]
