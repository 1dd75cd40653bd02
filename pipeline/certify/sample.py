"""Which rows are compared: some of every unit, chosen by a hash of their place, and a bounded number in a run."""

import hashlib
import heapq
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.blocks import RowBlock, Unit
from schemas.splitmix import mix

LEAST = 16
"""Rows of a unit that is sampled, where it has so many."""

MOST_UNITS = 125
"""Of a run: those that are sampled."""

SHARED = 256
"""Rows that fewer units share. A row costs a millisecond or more in the other stack."""


def choose_units(units: Sequence[Unit]) -> frozenset[int]:
    """All units or, where there are more than MOST_UNITS, some of them by a hash of where they begin."""
    return frozenset(unit.index for unit in heapq.nsmallest(MOST_UNITS, units, key=_unit_hash))


def block_quota(units: int, block: int, *, last: bool) -> int:
    """Rows of a block, where `units` are sampled. Nobody knows in advance how many blocks a unit gives, so each takes
    half of what the earlier ones have left of the unit's share, the last block all of it."""
    share = max(LEAST, SHARED // units)
    first = share if last else max(LEAST, share // 2)
    if block == 0:
        return first
    left = (share - max(LEAST, share // 2)) >> (block - 1)
    return left if last else left // 2


def choose_rows(block: RowBlock, urls: Mapping[int, str], count: int) -> list[int]:
    """Indices into the block's rows, in the order of the hashes of their places. Not the hash that chooses the holdout:
    held-out rows would be compared more often than others."""
    seeds = {source: int.from_bytes(_hash(urls[source])[:8], "big") for source in set(block.sources)}
    of_source = np.fromiter(map(seeds.__getitem__, block.sources), np.uint64, len(block.sources))
    chosen = np.argsort(mix(of_source ^ mix(np.array(block.positions, np.uint64))), kind="stable")[:count]
    return [int(index) for index in chosen]


def _unit_hash(unit: Unit) -> bytes:
    first = unit.stretches[0]
    return _hash(f"{first.file.url}\0{first.start}")


def _hash(text: str) -> bytes:
    return hashlib.sha256(f"certify\0{text}".encode()).digest()
