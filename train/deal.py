"""How a step's packs are dealt to ranks: in turn, or by what they cost.

The ranks wait for each other in every micro-batch, whose weights they gather together, so a step takes as long as

    sum over micro-batches of (the most that a rank computes in it)

By cost the packs are sorted, the dearest first, so those of one micro-batch are of like cost. They are dealt in rounds
of one for each rank: the dearest of a round goes to the rank that has least so far. All ranks have the same number of
packs as when dealt in turn, and

    that sum <= sum of costs / ranks + dearest pack - cheapest pack    (0 for places that stay empty)

since a round brings two ranks no further apart than its own packs are (longest-processing-time-first scheduling with as
many jobs for each machine). With one pack a micro-batch no other dealing has a smaller sum.

A deal is a function of the packs and their costs alone, so every rank finds the same.
"""

from collections.abc import Sequence
from typing import TypeAlias

Hand: TypeAlias = list[list[int]]
"""What one rank gets: its micro-batches, each the places of packs in the step. All hands have as many micro-batches; in
the last one a rank may have fewer packs than the others, or none."""


def deal_in_turn(packs: int, ranks: int, packs_per_microbatch: int) -> list[Hand]:
    """The hands of all ranks, of each `ranks` packs one."""
    return [_cut(list(range(rank, packs, ranks)), packs, ranks, packs_per_microbatch) for rank in range(ranks)]


def deal_by_cost(costs: Sequence[int], ranks: int, packs_per_microbatch: int) -> list[Hand]:
    """The hands of all ranks; costs: of each pack of the step. Of packs that cost the same the first comes first."""
    dearest = sorted(range(len(costs)), key=lambda place: -costs[place])
    dealt: list[list[int]] = [[] for _ in range(ranks)]
    step, microbatch = [0] * ranks, [0] * ranks  # what each rank has in them so far
    for number, start in enumerate(range(0, len(costs), ranks)):
        if number % packs_per_microbatch == 0:
            microbatch = [0] * ranks
        takers = sorted(range(ranks), key=lambda rank: (microbatch[rank], step[rank]))
        for rank, place in zip(takers, dearest[start : start + ranks], strict=False):  # the last round may be short
            dealt[rank].append(place)
            microbatch[rank] += costs[place]
            step[rank] += costs[place]
    return [_cut(own, len(costs), ranks, packs_per_microbatch) for own in dealt]


def _cut(own: list[int], packs: int, ranks: int, packs_per_microbatch: int) -> Hand:
    most = -(-packs // ranks)
    return [own[start : start + packs_per_microbatch] for start in range(0, most, packs_per_microbatch)]
