"""The shards of the coming steps, against a slow look at all their packs."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from train.look_ahead import LookAhead, Reach, ShardRef
from train.mixture import PackRef

PACKS = 3
"""Of a shard."""

STEPS = st.lists(st.lists(st.builds(PackRef, st.integers(0, 1), st.integers(0, 20)), max_size=5), max_size=12)
REACHES = st.builds(Reach, st.integers(1, 9), st.integers(0, 30), st.integers(0, 8), st.integers(0, 40))


def shard_of(ref: PackRef) -> ShardRef:
    return ShardRef(ref.dataset, ref.pack // PACKS)


def bytes_of(shard: ShardRef) -> int:
    """The first data set's are in a folder."""
    return shard.dataset * (2 + shard.shard)


def list_shards(steps: Sequence[Sequence[PackRef]]) -> list[ShardRef]:
    """Each once, in the order of their first use."""
    found: list[ShardRef] = []
    for packs in steps:
        for ref in packs:
            if shard_of(ref) not in found:
                found.append(shard_of(ref))
    return found


def fits(steps: Sequence[Sequence[PackRef]], reach: Reach) -> bool:
    sizes = [bytes_of(shard) for shard in list_shards(steps) if bytes_of(shard)]
    return (
        len(steps) <= reach.steps
        and sum(map(len, steps)) <= reach.packs
        and len(sizes) <= reach.shards
        and sum(sizes) <= reach.bytes
    )


@given(steps=STEPS, reach=REACHES, looks=st.integers(0, 4))
def test_what_is_found_is_what_the_steps_use_in_the_order_of_first_use(
    steps: list[list[PackRef]], reach: Reach, looks: int
) -> None:
    ahead, kept, end = LookAhead(iter(steps), shard_of, bytes_of, reach), [], 0
    for number in range(len(steps)):
        gone = ahead.move()
        end = max(end, number + 1)
        assert ahead.first(1) == list_shards(steps[number : number + 1])
        assert {*kept} - {*gone} <= {*list_shards(steps[number:end])}
        assert not {*gone} & {*list_shards(steps[number:end])}
        assert {*gone} <= {*kept}
        known = list_shards(steps[number:end])
        for _ in range(looks):
            if end < len(steps) and fits(steps[number : end + 1], reach):
                end += 1
        found = ahead.look(looks)
        kept = list_shards(steps[number:end])
        assert known + found == kept == ahead.first(len(steps))
        assert end == number + 1 or fits(steps[number:end], reach)


def test_a_window_is_known_while_the_one_before_is_read() -> None:
    """And no shard is given up before its last use."""
    steps = [[PackRef(1, pack)] for window in (range(6), range(6, 12)) for pack in window]
    ahead = LookAhead(steps, shard_of, bytes_of, Reach(steps=100, packs=100, shards=100, bytes=100))
    assert ahead.move() == []
    assert ahead.look(100) == [ShardRef(1, shard) for shard in (1, 2, 3)]
    assert [ahead.move() for _ in range(11)] == [
        [ShardRef(1, (step - 1) // PACKS)] if step % PACKS == 0 else [] for step in range(1, 12)
    ]
