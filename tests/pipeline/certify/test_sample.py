"""The law of the sample: 16 rows of a sampled unit or all it has, more of few units, the same for the same rows."""

import random

from hypothesis import given
from hypothesis import strategies as st

from pipeline.blocks import BlockKey, RowBlock, SourceFile, Stretch, Unit
from pipeline.certify.sample import LEAST, MOST_UNITS, SHARED, block_quota, choose_rows, choose_units


def make_units(count: int) -> list[Unit]:
    file = SourceFile("rows.jsonl", 0, "jsonl", None, 10 * count, None, "1")
    return [Unit(index, (Stretch(0, file, 10 * index, 10 * index + 10),)) for index in range(count)]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=300))
def test_the_law_of_the_sample(blocks_of_units: list[int]) -> None:
    """However many blocks the units turn out to have."""
    sampled = choose_units(make_units(len(blocks_of_units)))
    total = 0
    for unit in sampled:
        blocks = blocks_of_units[unit]
        quotas = [block_quota(len(sampled), block, last=block == blocks - 1) for block in range(blocks)]
        assert quotas[0] >= LEAST
        assert min(quotas) >= 0
        total += sum(quotas)
    assert total <= max(SHARED, LEAST * len(sampled))
    assert len(sampled) == min(len(blocks_of_units), MOST_UNITS)


def test_a_single_block_takes_the_whole_share() -> None:
    assert [block_quota(units, 0, last=True) for units in (1, 4, 125)] == [256, 64, 16]


def test_the_units_are_chosen_by_where_they_begin() -> None:
    units = make_units(1000)
    chosen = choose_units(units)
    assert len(chosen) == 125
    assert chosen == choose_units(random.Random(0).sample(units, len(units)))
    assert max(chosen) > 500


@given(st.lists(st.integers(0, 10**6), unique=True, min_size=1, max_size=80), st.integers(0, 100), st.randoms())
def test_rows_are_chosen_by_their_place_alone(positions: list[int], count: int, rng: random.Random) -> None:
    def chosen(order: list[int]) -> list[int]:
        block = RowBlock(BlockKey(0, 0, True), [0] * len(order), order, [{} for _ in order])
        return [order[index] for index in choose_rows(block, ("rows.jsonl",), count)]

    found = chosen(positions)
    assert len(set(found)) == min(count, len(positions))
    assert found == chosen(rng.sample(positions, len(positions)))
    assert chosen(positions)[: count // 2] == found[: count // 2]
