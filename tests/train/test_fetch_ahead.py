"""Ranks that share a cache: each byte is asked for once, before it is needed, and in the order of use."""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shelf import CHUNK, Shelf

from schemas.errors import StoreError
from schemas.policy import PRESETS
from train import fetch_ahead
from train.feed import Feeder, StepData, end_in_error, feed_steps
from train.fetch_ahead import describe_want, find_reach
from train.groups import Groups
from train.look_ahead import ShardRef
from train.mixture import Mixture
from train.packs import ShardedPacks

SHARDS, SHARD_PACKS, WINDOW, STEP = 12, 4, 3, 2
STEPS = SHARDS * SHARD_PACKS // STEP


@pytest.fixture
def path(tmp_path: Path, build_dataset: Callable[..., str], make_doc: Callable[..., Any]) -> str:
    rng = np.random.default_rng(0)
    packs = [[make_doc(rng, 16, 4)] for _ in range(SHARDS * SHARD_PACKS)]
    return build_dataset(tmp_path / "data", packs, packs_per_shard=SHARD_PACKS)


def feed(
    datasets: Sequence[ShardedPacks], rank: int = 0, ranks: int = 1, window: int | None = WINDOW
) -> Iterator[StepData]:
    feeder = Feeder(
        datasets=datasets,
        tables=[PRESETS["all"].table()] * len(datasets),
        groups=Groups([dataset.path for dataset in datasets], [[""]] * len(datasets), by_source=False),
        rank=rank,
        ranks=ranks,
        packs_per_microbatch=1,
        balance=True,
        per_document=False,
        pinned=False,
    )
    mixture = Mixture(datasets, None, 5, window)
    steps = STEPS * len(datasets)
    return feed_steps(feeder, mixture, (0,) * len(datasets), [STEP] * steps, [math.inf] * len(datasets))


def shards_of(datasets: Sequence[ShardedPacks], steps: Sequence[StepData]) -> list[ShardRef]:
    """Each once, in the order of their first use."""
    refs = [ref for step in steps for ref in step.packs]
    return list(dict.fromkeys(ShardRef(ref.dataset, datasets[ref.dataset].shard_of(ref.pack)) for ref in refs))


def name_of(shard: ShardRef) -> str:
    return f"{shard.shard * SHARD_PACKS:05d}.arrow"


def assert_read(steps: Sequence[StepData], datasets: Sequence[ShardedPacks]) -> None:
    """One rank's rows are those of the packs; datasets: in folders."""
    for step in steps:
        rows = [row.tolist() for batch in step.microbatches for row in batch.input_ids]
        assert rows == [datasets[ref.dataset][ref.pack].input_ids.tolist() for ref in step.packs]


def test_shards_are_fetched_in_the_order_of_their_first_use(
    shelf: type[Shelf], path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_ahead, "THREADS", 1)
    remote = ShardedPacks(f"shelf://{path}", cache=tmp_path / "cache", cache_bytes=1 << 20)
    steps = list(feed([remote]))
    assert_read(steps, [ShardedPacks(path)])
    fetched = list(dict.fromkeys(name for kind, name in shelf.requests if kind == "range"))
    assert fetched == [name_of(shard) for shard in shards_of([remote], steps)]
    assert len(fetched) == SHARDS


def test_the_next_window_is_fetched_while_one_is_read(shelf: type[Shelf], path: str, tmp_path: Path) -> None:
    """With room for two windows in half of the cache; and no shard is fetched that the room is not for."""
    size = ShardedPacks(path).shards[0].bytes
    remote = ShardedPacks(f"shelf://{path}", cache=tmp_path / "cache", cache_bytes=2 * 2 * WINDOW * size + 1000)
    steps: list[StepData] = []
    expected = shards_of([remote], list(feed([ShardedPacks(path)])))
    for step in feed([remote]):
        steps.append(step)
        if len(steps) == 2:  # whose packs are of the first window alone
            assert {*shards_of([remote], steps)} <= {*expected[:WINDOW]}
            here = [tmp_path / "cache" / remote.shards[shard.shard].sha256 for shard in expected[: 2 * WINDOW]]
            deadline = time.monotonic() + 60
            while not all(file.exists() for file in here):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert {name for kind, name in shelf.requests if kind == "range"} == {*map(name_of, expected[: 2 * WINDOW])}
    assert len(steps) == STEPS


def test_a_store_that_fails_long_before_a_shard_is_used_is_asked_again(
    shelf: type[Shelf], path: str, tmp_path: Path
) -> None:
    """Once: what still fails when the shard is used ends the steps."""
    local = ShardedPacks(path)
    expected = list(feed([local]))
    shard = shards_of([local], expected)[-1]
    first_use = next(number for number, step in enumerate(expected) if shard in shards_of([local], [step]))
    failed = threading.Event()

    def fail(times: int) -> Callable[[str, bytes], bytes]:
        left = iter(range(times))

        def answer(name: str, data: bytes) -> bytes:
            if name == name_of(shard) and next(left, None) is not None:
                failed.set()
                raise PermissionError("the credentials have expired")
            return data

        return answer

    for times in (1, 1000):
        shelf.answer = fail(times)
        remote = ShardedPacks(f"shelf://{path}", cache=tmp_path / str(times), cache_bytes=1 << 20)
        failed.clear()
        steps = []
        for step in end_in_error(feed([remote])):
            steps.append(step)
            if len(steps) == first_use - 2:
                assert failed.wait(60)
                while list((tmp_path / str(times)).glob("*.part")):
                    time.sleep(0.001)
        assert len(steps) == (STEPS if times == 1 else first_use + 1)
        assert isinstance(steps[-1], StepData if times == 1 else StoreError)


@pytest.mark.parametrize("window", [WINDOW, None])
def test_ranks_that_share_a_cache_ask_for_each_byte_once(
    window: int | None, shelf: type[Shelf], path: str, tmp_path: Path
) -> None:
    """And several of them are at several shards at a time."""
    ranks, at_work, most = 4, Counter[str](), [0]
    lock, meet = threading.Lock(), threading.Barrier(ranks)

    def slow(name: str, data: bytes) -> bytes:
        if name.startswith("0"):
            with lock:
                at_work[name] += 1
                most[0] = max(most[0], len(+at_work))
            time.sleep(0.005)
            with lock:
                at_work[name] -= 1
        return data

    shelf.answer = slow

    def read(rank: int) -> list[StepData]:
        remote = ShardedPacks(f"shelf://{path}", cache=tmp_path / "cache", cache_bytes=1 << 20)
        steps = []
        for step in feed([remote], rank, ranks, window):
            steps.append(step)
            meet.wait(60)
        return steps

    with ThreadPoolExecutor(ranks) as pool:
        fed = list(pool.map(read, range(ranks)))
    shards = ShardedPacks(path).shards
    assert Counter(name for kind, name in shelf.requests if kind == "range") == {
        Path(shard.name).name: -(-shard.bytes // CHUNK) for shard in shards
    }
    assert 2 <= most[0] <= fetch_ahead.THREADS
    assert all(len(steps) == STEPS for steps in fed)


def test_runs_that_want_more_than_the_cache_holds_do_not_hold_each_other_up(
    shelf: type[Shelf], path: str, tmp_path: Path
) -> None:
    """Each has half of a window's room, in other orders, and reads what is right; afterwards the limit holds."""
    size = ShardedPacks(path).shards[0].bytes
    limit = (WINDOW - 1) * size

    def read(order: int) -> None:
        remote = ShardedPacks(f"shelf://{path}", cache=tmp_path / "cache", cache_bytes=limit)
        steps = list(feed([remote], window=[WINDOW, None, 1][order]))
        assert_read(steps, [ShardedPacks(path)])
        assert len(steps) == STEPS

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(read, range(3)))
    ShardedPacks(f"shelf://{path}", cache=tmp_path / "cache", cache_bytes=limit).prepare(0)
    kept = list((tmp_path / "cache").iterdir())
    assert all(len(file.name) == 64 for file in kept)
    assert sum(file.stat().st_size for file in kept) <= limit + size


def test_folders_and_stores_are_mixed(shelf: type[Shelf], path: str, tmp_path: Path) -> None:
    local, remote = ShardedPacks(path), ShardedPacks(f"shelf://{path}", cache=tmp_path / "cache", cache_bytes=1 << 20)
    steps = list(feed([local, remote]))
    assert_read(steps, [local, local])
    assert {ref.dataset for step in steps for ref in step.packs} == {0, 1}
    assert (find_reach([local]).bytes, find_reach([local]).steps) == (0, 5)
    assert find_reach([local, remote]).bytes == 1 << 19


def test_a_cache_that_has_no_room_for_two_windows_is_told(shelf: type[Shelf], path: str, tmp_path: Path) -> None:
    sizes = sorted(shard.bytes for shard in ShardedPacks(path).shards)

    def tell(cache_bytes: int, window: int | None) -> str | None:
        remote = ShardedPacks(f"shelf://{path}", cache=tmp_path / "cache", cache_bytes=cache_bytes)
        return describe_want([remote, ShardedPacks(path)], window)

    for window, want in ((WINDOW, sum(sizes[-2 * WINDOW :])), (SHARDS, sum(sizes)), (None, sum(sizes))):
        assert tell(2 * want, window) is None
        assert "two windows of shards" in str(tell(2 * want - 1, window))
    assert describe_want([ShardedPacks(path)], None) is None
