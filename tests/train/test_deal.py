"""Dealing loses no pack and leaves no rank out, and by cost the ranks wait for each other as little as can be told."""

from collections.abc import Sequence
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from train.deal import Hand, deal_by_cost, deal_in_turn

COSTS = st.lists(st.integers(0, 50) | st.integers(0, 10**9), min_size=1, max_size=40)
RANKS = st.integers(1, 9)
SIZES = st.integers(1, 5)


def step_cost(hands: Sequence[Hand], costs: Sequence[int]) -> int:
    """The ranks wait for each other in every micro-batch."""
    return sum(max(sum(costs[place] for place in own) for own in microbatch) for microbatch in zip(*hands, strict=True))


@given(costs=COSTS, ranks=RANKS, size=SIZES)
def test_each_pack_is_dealt_once_and_evenly(costs: list[int], ranks: int, size: int) -> None:
    """A whole number of micro-batches is full on all ranks; in the last one they differ by one pack at most."""
    for hands in (deal_in_turn(len(costs), ranks, size), deal_by_cost(costs, ranks, size)):
        assert sorted(place for hand in hands for own in hand for place in own) == list(range(len(costs)))
        assert len(hands) == ranks
        for number, microbatch in enumerate(zip(*hands, strict=True)):
            lengths = [len(own) for own in microbatch]
            left = len(costs) - number * ranks * size
            assert max(lengths) - min(lengths) <= (left < ranks * size)
            assert 0 < max(lengths) <= size


@given(costs=COSTS, ranks=RANKS, size=SIZES)
def test_by_cost_the_ranks_wait_no_longer_than_for_one_packs_difference(
    costs: list[int], ranks: int, size: int
) -> None:
    cheapest = 0 if len(costs) % ranks else min(costs)
    excess = step_cost(deal_by_cost(costs, ranks, size), costs) - sum(costs) / ranks
    assert excess <= max(costs) - cheapest


@given(costs=COSTS, ranks=RANKS, random=st.randoms())
def test_by_cost_one_pack_at_a_time_is_the_least_there_is(costs: list[int], ranks: int, random: Random) -> None:
    """Against packs in any order dealt in turn, which is every dealing."""
    other = list(costs)
    random.shuffle(other)
    dealt = step_cost(deal_by_cost(costs, ranks, 1), costs)
    assert dealt == sum(sorted(costs, reverse=True)[::ranks])
    assert dealt <= step_cost(deal_in_turn(len(other), ranks, 1), other)


def test_by_cost_the_steps_heaviest_go_first_and_totals_are_alike() -> None:
    """Worked by hand: rounds of 9 and 8, 7 and 6, 5 and 1."""
    costs = [1, 5, 9, 6, 7, 8]
    assert deal_by_cost(costs, 2, 1) == [[[2], [3], [1]], [[5], [4], [0]]]
    assert deal_by_cost(costs, 2, 3) == [[[2, 3, 1]], [[5, 4, 0]]]
    assert deal_by_cost([*costs, 0], 2, 2) == [[[2, 3], [1]], [[5, 4], [0, 6]]]
    assert deal_by_cost([4, 4, 4], 2, 1) == [[[0], [2]], [[1], []]]
    assert deal_in_turn(5, 2, 2) == [[[0, 2], [4]], [[1, 3], []]]
