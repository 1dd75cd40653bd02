"""The order of packs: a keyed permutation of the pack numbers for each epoch, without an array of indices.

How a pack number is shuffled: its bits are cut in halves, and in each round

    left, right = right, left ^ mix(right, key of the round)

which can be undone whatever `mix` is, so it is a permutation of all numbers of that many bits (a Feistel network).
A number that falls outside the data set is shuffled again until it falls inside (cycle walking), which makes it
a permutation of exactly the data set's packs.

Epochs join into one endless stream of positions 0, 1, 2, ..., so the state of the data is one integer, and neither the
number of ranks nor that of micro-batches is in it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from schemas.splitmix import mix

UInt64s = npt.NDArray[np.uint64]

ROUNDS = 8


@dataclass(frozen=True, slots=True)
class PackOrder:
    """The stream of pack numbers of a data set of `packs` packs; 0 <= seed < 2^64."""

    packs: int
    seed: int

    def take(self, start: int, count: int) -> npt.NDArray[np.int64]:
        """int64[count]: the pack numbers at the positions start, start + 1, ... of the stream."""
        positions = np.arange(start, start + count, dtype=np.uint64)
        epochs, indices = np.divmod(positions, np.uint64(self.packs))
        keys = mix(mix(np.full_like(epochs, self.seed)) + epochs)
        return self._permute(indices, keys).astype(np.int64)

    def _permute(self, indices: UInt64s, keys: UInt64s) -> UInt64s:
        half_bits = max(1, (self.packs - 1).bit_length() + 1 >> 1)
        values = _shuffle_bits(indices, keys, half_bits)
        while (outside := values >= self.packs).any():
            values[outside] = _shuffle_bits(values[outside], keys[outside], half_bits)
        return values


def _shuffle_bits(values: UInt64s, keys: UInt64s, half_bits: int) -> UInt64s:
    """A permutation of the numbers below 2^(2 * half_bits), one for each key."""
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & mask
    for number in range(ROUNDS):
        left, right = right, left ^ (mix(right + mix(keys + np.uint64(number))) & mask)
    return left << shift | right


def deal(packs: npt.NDArray[np.int64], rank: int, ranks: int, packs_per_microbatch: int) -> list[npt.NDArray[np.int64]]:
    """One rank's micro-batches of a step. Every rank gets the same number; the last ones may be short or empty."""
    microbatches = [packs[start : start + packs_per_microbatch] for start in range(0, len(packs), packs_per_microbatch)]
    missing = -len(microbatches) % ranks
    return [*microbatches, *[packs[:0]] * missing][rank::ranks]
