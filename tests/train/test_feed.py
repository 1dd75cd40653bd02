"""What ranks read: every pack once, a step ahead, and errors where they are used."""

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import DatasetError
from schemas.policy import PRESETS
from train.feed import Feeder, end_in_error, feed_steps, read_ahead
from train.groups import Groups
from train.mixture import Mixture, PackRef
from train.packs import ShardedPacks


def make_feeder(datasets: Sequence[ShardedPacks], rank: int, ranks: int, balance: bool = False) -> Feeder:
    return Feeder(
        datasets=datasets,
        tables=[PRESETS["all"].table(), PRESETS["assistant"].table()],
        groups=Groups(["one", "two"], [[""], [""]], by_source=False),
        rank=rank,
        ranks=ranks,
        packs_per_microbatch=2,
        balance=balance,
        per_document=False,
        pinned=False,
    )


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("balance", [False, True], ids=["in turn", "by cost"])
def test_ranks_together_read_each_pack_of_each_step_with_its_policy(
    balance: bool, ranks: int, tmp_path: Path, build_dataset: Callable[..., str], unequal_packs: Sequence[Any]
) -> None:
    datasets = [ShardedPacks(build_dataset(tmp_path / name, unequal_packs)) for name in ("one", "two")]
    mixture, sizes = Mixture(datasets, None, 3, None), [4, 4, 2]
    fed = [
        list(feed_steps(make_feeder(datasets, rank, ranks, balance), mixture, (0, 0), sizes, [math.inf] * 2))
        for rank in range(ranks)
    ]
    seen: list[tuple[int, list[int]]] = []
    for steps in zip(*fed, strict=True):
        assert len({len(step.microbatches) for step in steps}) == 1
        assert all(step.packs == steps[0].packs and step.taken == steps[0].taken for step in steps)
        rows = [row.tolist() for step in steps for batch in step.microbatches for row in batch.input_ids]
        expected = [datasets[ref.dataset][ref.pack].input_ids.tolist() for ref in steps[0].packs]
        assert sorted(row for row in rows if any(row)) == sorted(expected)
        for step in steps:
            own = [row.tolist() for batch in step.microbatches for row in batch.input_ids][: len(step.places)]
            assert own == [expected[place] for place in step.places]
        seen += [(ref.dataset, row) for ref, row in zip(steps[0].packs, expected, strict=True)]
        groups = [group for step in steps for batch in step.microbatches for group in batch.groups.tolist()]
        trained = [
            sum(int(PRESETS[name].table()[pack.channel[: int(pack.doc_lengths.sum())]].sum()) for pack in own)
            for name, own in (
                (policy, [datasets[ref.dataset][ref.pack] for ref in steps[0].packs if ref.dataset == index])
                for index, policy in enumerate(("all", "assistant"))
            )
        ]
        assert [groups.count(0), groups.count(1)] == trained
    assert fed[0][-1].taken == (5, 5)
    assert len(seen) == 10


def test_the_next_item_is_made_while_one_is_used() -> None:
    made = [threading.Event() for _ in range(3)]

    def items() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number

    for item, waited in read_ahead(items()):
        assert waited >= 0
        assert item == 2 or made[item + 1].wait(timeout=10)


def test_who_stops_does_not_wait_for_the_next_item() -> None:
    arrived = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        arrived.wait(60)
        yield 2

    ahead = read_ahead(items())
    assert next(ahead)[0] == 1
    stopping = threading.Thread(target=ahead.close)  # type: ignore[attr-defined]
    stopping.start()
    stopping.join(10)
    assert not stopping.is_alive()
    arrived.set()


def test_an_error_comes_where_the_item_would() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise DatasetError("the second cannot be read")

    got = []
    with pytest.raises(DatasetError, match="the second"):
        got.extend(item for item, _ in read_ahead(items()))
    assert list(read_ahead(iter(()))) == []
    first, last = end_in_error(items())
    assert (first, str(last)) == (1, "the second cannot be read")


@pytest.mark.parametrize("ranks", [1, 2])
def test_by_cost_the_dearest_packs_are_shared_out(
    ranks: int, tmp_path: Path, build_dataset: Callable[..., str], unequal_packs: Sequence[Any]
) -> None:
    """Squares of documents and of the padding: 85 + 9, 256, 110, 73 + 25, 144 + 16. Alone a rank has them in turn."""
    dataset = ShardedPacks(build_dataset(tmp_path / "one", unequal_packs))
    refs = [PackRef(0, pack) for pack in (0, 1, 2, 3, 4)]
    shares = [next(make_feeder([dataset], rank, ranks, balance=True).load(lambda: [refs])) for rank in range(ranks)]
    assert [share.places for share in shares] == ([[0, 1, 2, 3, 4]] if ranks == 1 else [[1, 3], [4, 2, 0]])


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("balance", [False, True], ids=["in turn", "by cost"])
def test_a_damaged_shard_ends_the_steps_before_the_first_that_reads_it(
    balance: bool, rank: int, tmp_path: Path, build_dataset: Callable[..., str], unequal_packs: Sequence[Any]
) -> None:
    """All ranks have all shards of a step checked, as its packs may be dealt by what they cost."""
    datasets = [ShardedPacks(build_dataset(tmp_path / name, unequal_packs)) for name in ("one", "two")]
    shard = tmp_path / "two" / "shards" / "00003.arrow"
    shard.write_bytes(b"!" + shard.read_bytes()[1:])
    mixture, sizes = Mixture(datasets, None, 3, None), [3] * 20
    taken, expected = (0, 0), 0
    while True:
        packs, taken = mixture.take(taken, 3)
        if any(ref.dataset == 1 and ref.pack >= 3 for ref in packs):  # whichever rank's
            break
        expected += 1
    feeder = make_feeder(datasets, rank, 2, balance)
    *steps, error = end_in_error(feed_steps(feeder, mixture, (0, 0), sizes, [math.inf] * 2))
    assert isinstance(error, DatasetError)
    assert len(steps) == expected


def test_no_shard_is_made_ready_by_two_threads_at_a_time(
    tmp_path: Path, build_dataset: Callable[..., str], unequal_packs: Sequence[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = [ShardedPacks(build_dataset(tmp_path / name, unequal_packs)) for name in ("one", "two")]
    running: list[tuple[str, int]] = []
    ready: set[tuple[str, int]] = set()

    def prepare(dataset: ShardedPacks, index: int) -> None:
        assert (dataset.path, index) not in running
        running.append((dataset.path, index))
        time.sleep(0.01)
        running.remove((dataset.path, index))
        ready.add((dataset.path, index))

    monkeypatch.setattr(ShardedPacks, "prepare", prepare)
    mixture = Mixture(datasets, None, 3, None)
    steps = feed_steps(make_feeder(datasets, 0, 1), mixture, (0, 0), [2] * 10, [math.inf] * 2)
    for step in steps:
        read = {(datasets[ref.dataset].path, datasets[ref.dataset].shard_of(ref.pack)) for ref in step.packs}
        assert read <= ready
    assert len(ready) == 4
