"""Ranks of one start meet in a part of the store that no earlier start has written to."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TypeAlias

import pytest
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from train import rendezvous
from train.rendezvous import part_of_start

RANKS = 4
Connect: TypeAlias = Callable[[], Store]


@pytest.fixture
def store() -> Connect:
    """A new connection to the one store that torchrun keeps through restarts."""
    seconds = timedelta(seconds=20)
    server = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    return lambda: dist.TCPStore("localhost", server.port, timeout=seconds)


def start(store: Connect, ranks: int = RANKS) -> list[Store]:
    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(lambda rank: part_of_start(store(), rank, ranks), range(ranks)))


def test_each_start_has_a_part_of_the_store_to_itself(store: Connect) -> None:
    for number, ranks in enumerate((RANKS, 2, 3)):  # nodes come and go
        parts = start(store, ranks)
        for part in parts:
            assert not part.check(["address"])
        parts[0].set("address", str(number))
        assert [int(part.get("address")) for part in parts] == [number] * ranks


@pytest.mark.parametrize("came", [(1, 2, 3), (2,), (0,), (0, 1, 2)])
def test_ranks_of_a_start_that_failed_do_not_count(
    came: tuple[int, ...], store: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of its ranks came, asked and died; rank 0 waited for the others."""
    for _ in set(came) - {0}:
        PrefixStore("starts", store()).add("questions", 1)
    if 0 in came:
        with monkeypatch.context() as context:
            context.setattr(rendezvous, "default_pg_timeout", timedelta(seconds=0.1))
            with pytest.raises(TimeoutError, match="fewer than 4 ranks"):
                part_of_start(store(), 0, RANKS)
    parts = start(store)
    parts[3].set("address", "new")
    assert all(part.get("address") == b"new" for part in parts)
