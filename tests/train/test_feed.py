"""What ranks read: every pack once, a step ahead, and errors where they are used."""

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import DatasetError
from schemas.policy import PRESETS
from train.feed import Feeder, feed_steps, read_ahead
from train.groups import Groups
from train.mixture import Mixture
from train.packs import ShardedPacks


def make_feeder(datasets: Sequence[ShardedPacks], rank: int, ranks: int) -> Feeder:
    return Feeder(
        datasets=datasets,
        tables=[PRESETS["all"].table(), PRESETS["assistant"].table()],
        groups=Groups(["one", "two"], [[""], [""]], by_source=False),
        rank=rank,
        ranks=ranks,
        packs_per_microbatch=2,
        per_document=False,
        pinned=False,
    )


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_ranks_together_read_each_pack_of_each_step_with_its_policy(
    ranks: int, tmp_path: Path, build_dataset: Callable[..., str], unequal_packs: Sequence[Any]
) -> None:
    datasets = [ShardedPacks(build_dataset(tmp_path / name, unequal_packs)) for name in ("one", "two")]
    mixture, sizes = Mixture(datasets, None, 3, None), [4, 4, 2]
    fed = [list(feed_steps(make_feeder(datasets, rank, ranks), mixture, (0, 0), sizes)) for rank in range(ranks)]
    seen: list[tuple[int, list[int]]] = []
    for steps in zip(*fed, strict=True):
        assert len({len(step.microbatches) for step in steps}) == 1
        assert all(step.packs == steps[0].packs and step.taken == steps[0].taken for step in steps)
        rows = [row.tolist() for step in steps for batch in step.microbatches for row in batch.input_ids]
        expected = [datasets[ref.dataset][ref.pack].input_ids.tolist() for ref in steps[0].packs]
        assert sorted(row for row in rows if any(row)) == sorted(expected)
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


def test_an_error_comes_where_the_item_would() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise DatasetError("the second cannot be read")

    got = []
    with pytest.raises(DatasetError, match="the second"):
        got.extend(item for item, _ in read_ahead(items()))
    assert list(read_ahead(iter(()))) == []
