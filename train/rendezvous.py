"""Where the ranks of one start of a run find each other.

torchrun keeps one store for all starts of its ranks (`--max-restarts`), and what ranks have written there stays: their
addresses, NCCL's id. A rank that reads those of the start before waits for processes that have ended, until its timeout
(seen with torch 2.13 on two nodes; github.com/pytorch/pytorch/issues/135712). TORCHELASTIC_RESTART_COUNT does not tell
starts apart: each node counts its own failures. So rank 0 numbers the starts, and each has a part of the store to
itself.
"""

import time

from torch.distributed.constants import default_pg_timeout
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

POLL_SECONDS = 0.02


def join_start() -> tuple[Store, int, int]:
    """(store, rank, ranks) of this process, from the environment that torchrun gives it. The store holds nothing but
    what the ranks of this start write."""
    store, rank, ranks = next(rendezvous("env://"))
    return part_of_start(store, rank, ranks), rank, ranks


def part_of_start(store: Store, rank: int, ranks: int) -> Store:
    """Every rank must call it. Each other than 0 asks rank 0 by a number that nobody has asked by before, so an answer
    that a rank finds is never one of an earlier start. Raises TimeoutError on rank 0 where not all ranks ask."""
    starts = PrefixStore("starts", store)
    start = _tell_start(starts, ranks) if rank == 0 else _ask_start(starts)
    return PrefixStore(f"start{start}", store)


def _ask_start(starts: Store) -> int:
    question = starts.add("questions", 1)
    start = int(starts.get(f"answer{question}"))  # waits until it is there
    starts.add(f"told{start}", 1)
    return start


def _tell_start(starts: Store, ranks: int) -> int:
    """Answers every question, those of ranks that have ended too, until all other ranks of this start are told."""
    start = starts.add("starts", 1)
    deadline = time.monotonic() + default_pg_timeout.total_seconds()
    answered = 0
    while starts.add(f"told{start}", 0) < ranks - 1:
        if time.monotonic() > deadline:
            raise TimeoutError(f"fewer than {ranks} ranks have come within {default_pg_timeout}")
        asked = starts.add("questions", 0)
        for question in range(answered + 1, asked + 1):
            starts.set(f"answer{question}", str(start))
        answered = asked
        time.sleep(POLL_SECONDS)
    return start
