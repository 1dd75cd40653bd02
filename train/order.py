"""The order of packs: a keyed permutation for each epoch, without an array of pack numbers.

In each epoch the shards are permuted, the permuted shards are cut into windows of `shuffle_shards` shards, and the
packs of each window are permuted. So a stretch of the order reads from one or two windows, which a cache can hold.

How a number is shuffled: its bits are cut in halves, and in each round

    left, right = right, left ^ mix(right, key of the round)

which can be undone whatever `mix` is, so it is a permutation of all numbers of that many bits (a Feistel network; Luby
and Rackoff 1988). A number that falls outside the window is shuffled again until it falls inside (cycle walking; Black
and Rogaway 2002), which makes it a permutation of exactly the window's packs.

Epochs join into one endless stream of positions 0, 1, 2, ..., so the state of the data is one integer, and neither the
number of ranks nor that of micro-batches is in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from schemas.splitmix import mix

Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]

ROUNDS = 8


class PackOrder:
    """The stream of pack numbers of a data set whose S shards have `shard_packs` packs; 0 <= seed < 2^64.

    A window is `shuffle_shards` shards, or all shards when None. Memory is O(S).
    """

    def __init__(self, shard_packs: Sequence[int], seed: int, shuffle_shards: int | None = None) -> None:
        self._shard_packs = np.array(shard_packs, dtype=np.int64)
        self._first_pack = _borders(self._shard_packs)
        self._packs = int(self._first_pack[-1])
        self._seed = np.uint64(seed)
        self._window_shards = shuffle_shards or len(shard_packs)
        self._layout = lru_cache(maxsize=2)(self._lay_out)

    def take(self, start: int, count: int) -> Int64s:
        """int64[count]: the pack numbers at the positions start, start + 1, ... of the stream."""
        parts, end = [np.empty(0, dtype=np.int64)], start + count
        while start < end:
            epoch, first = divmod(start, self._packs)
            stretch = min(self._packs - first, end - start)
            parts.append(self._shuffle(epoch, np.arange(first, first + stretch)))
            start += stretch
        return np.concatenate(parts)

    def _shuffle(self, epoch: int, places: Int64s) -> Int64s:
        layout = self._layout(epoch)
        windows = np.searchsorted(layout.window_borders, places, side="right") - 1
        first = layout.window_borders[windows]
        sizes = layout.window_borders[windows + 1] - first
        shuffled = first + _permute(places - first, sizes, _subkeys(layout.key, windows))
        shards = np.searchsorted(layout.shard_borders, shuffled, side="right") - 1
        return self._first_pack[layout.shards[shards]] + shuffled - layout.shard_borders[shards]

    def _lay_out(self, epoch: int) -> "_Layout":
        key = _subkeys(self._seed, np.array(epoch))
        numbers = np.arange(len(self._shard_packs))
        shards = _permute(numbers, np.full_like(numbers, len(numbers)), np.broadcast_to(key, numbers.shape))
        borders = _borders(self._shard_packs[shards])
        return _Layout(key, shards, borders, np.append(borders[: -1 : self._window_shards], borders[-1]))


@dataclass(frozen=True, slots=True)
class _Layout:
    """One epoch: S shards in their order, W windows; borders count packs, 0 ... packs of the data set."""

    key: UInt64s  # []
    shards: Int64s  # [S]
    shard_borders: Int64s  # [S + 1]
    window_borders: Int64s  # [W + 1]


def _borders(counts: Int64s) -> Int64s:
    return np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(counts)))


def _subkeys(key: UInt64s | np.uint64, indices: Int64s) -> UInt64s:
    return mix(mix(np.atleast_1d(key)) + indices.astype(np.uint64))


def _permute(numbers: Int64s, sizes: Int64s, keys: UInt64s) -> Int64s:
    """int64[N]: each number is below its size (at most 2^53), and so is what it becomes."""
    bits = np.frexp((sizes - 1).astype(np.float64))[1]  # the exponent of an integer is its number of bits
    half_bits = np.maximum(1, bits + 1 >> 1).astype(np.uint64)
    values, limits = numbers.astype(np.uint64), sizes.astype(np.uint64)
    outside = np.ones(len(values), dtype=np.bool_)
    while outside.any():
        values[outside] = _shuffle_bits(values[outside], keys[outside], half_bits[outside])
        outside = values >= limits
    return values.astype(np.int64)


def _shuffle_bits(values: UInt64s, keys: UInt64s, half_bits: UInt64s) -> UInt64s:
    """A permutation of the numbers below 2^(2 * half_bits), one for each key."""
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = values >> half_bits, values & mask
    for number in range(ROUNDS):
        left, right = right, left ^ (mix(right + mix(keys + np.uint64(number))) & mask)
    return left << half_bits | right
