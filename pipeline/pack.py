"""Which documents share a pack, and in which order the packs of a block are written.

Packs are filled one at a time, the longest documents first, and closed exactly as soon as two of the documents left
fill the rest. Best-fit decreasing is computed too, where it could do better, and whichever needs fewer packs is taken.

Both depend on how many documents there are of each length, and both make the same pack over and over while there are
enough of them: packs are computed as runs of equal ones.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from schemas.splitmix import mix


@dataclass(frozen=True, slots=True)
class PackPlan:
    """P packs of D documents; pack p holds documents[offsets[p] : offsets[p + 1]], in input order.

    `documents` is a permutation of 0 .. D - 1.
    """

    documents: npt.NDArray[np.int64]  # [D]
    offsets: npt.NDArray[np.int64]  # [P + 1]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def in_order(self, order: npt.NDArray[np.int64]) -> "PackPlan":
        """The packs in this order, a permutation of them."""
        sizes = np.diff(self.offsets)[order]
        return PackPlan(self.documents[_ranges(self.offsets[order], sizes)], _offsets(sizes))


def pack_lengths(lengths: npt.NDArray[np.integer], seq_len: int) -> PackPlan:
    """Put documents of these lengths, int[D], into packs of at most `seq_len`, never more than best-fit decreasing.

    Depends on nothing but its arguments; of documents of one length the earlier goes into the earlier pack.
    Raises AssertionError for a length outside 1 .. seq_len.
    """
    assert not len(lengths) or (lengths.min() > 0 and lengths.max() <= seq_len), "callers reject such documents"
    present, numbers = np.unique(lengths, return_counts=True)
    counts = dict(zip(present.tolist(), numbers.tolist(), strict=True))
    runs = exact_fit_packs(counts, seq_len)
    fewest = -(-int(lengths.sum()) // seq_len)
    if count_packs(runs) > fewest:
        runs = min(runs, best_fit_packs(counts, seq_len), key=count_packs)
    return _assign(runs, lengths)


class Run(NamedTuple):
    """Packs, one after the other, of documents of the same lengths."""

    lengths: list[int]
    packs: int


def count_packs(runs: Sequence[Run]) -> int:
    return sum(run.packs for run in runs)


def _assign(runs: Sequence[Run], lengths: npt.NDArray[np.integer]) -> PackPlan:
    """Give each place, of which only the length is known, one of the documents of that length."""
    in_runs = np.array([length for run in runs for length in run.lengths], np.int64)
    sizes_of_runs = np.array([len(run.lengths) for run in runs], np.int64)
    packs_of_runs = [run.packs for run in runs]
    sizes = np.repeat(sizes_of_runs, packs_of_runs)
    places = in_runs[_ranges(np.repeat(_offsets(sizes_of_runs)[:-1], packs_of_runs), sizes)]
    pack_of_document = np.empty(len(lengths), np.int64)
    pack_of_document[_sorting(lengths)] = np.repeat(np.arange(len(sizes)), sizes)[_sorting(places)]
    return PackPlan(_sorting(pack_of_document), _offsets(sizes))


def _offsets(sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """int64[n + 1]: where each of n parts begins, and where the last one ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])


def _ranges(starts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The integers of each [start, start + size), end to end."""
    offsets = _offsets(sizes)
    return np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], sizes)


def _sorting(values: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Their places in the order of the values, equal ones in their own order. numpy sorts 16 bits fastest."""
    if not len(values) or values.max() < 2**16:
        return np.argsort(values.astype(np.uint16), kind="stable")
    order = _sorting(values & 0xFFFF)
    return order[_sorting(values[order] >> 16)]


class LengthSet:
    """The lengths of the documents that are left, as the bits of two integers: a question is a few word-wise steps.

    Bit a of `_present` says that a document of length a is left, bit (longest - a) of `_mirror` says the same. So
    bit a of `_present & (_mirror shifted left by rest - longest)` says that a and rest - a both are.
    """

    def __init__(self, counts: Mapping[int, int]) -> None:
        self._counts = dict(counts)
        self._longest = max(counts, default=0)
        bits = np.zeros(self._longest + 1, np.bool_)
        bits[list(counts)] = True
        self._present = _as_integer(bits)
        self._mirror = _as_integer(bits[::-1])

    def longest(self, limit: int) -> int:
        """The longest length up to `limit`, 0 where there is none."""
        fitting = self._present
        if fitting.bit_length() > limit + 1:
            fitting &= (2 << limit) - 1
        return max(fitting.bit_length() - 1, 0)

    def exact_pair(self, rest: int) -> int:
        """The longer length of the most uneven pair that adds up to `rest`, 0 where there is none."""
        if rest > 2 * (self._present.bit_length() - 1):
            return 0
        shift = rest - self._longest
        pairs = self._present & (self._mirror << shift if shift > 0 else self._mirror >> -shift)
        longer = max(pairs.bit_length() - 1, 0)
        if 2 * longer == rest and self._counts[longer] < 2:
            return 0
        return longer

    def take(self, length: int, number: int = 1) -> int:
        self._counts[length] -= number
        if not self._counts[length]:
            self._present ^= 1 << length
            self._mirror ^= 1 << self._longest - length
        return length

    def repeats(self, pack: Sequence[int]) -> int:
        """How often this pack, which was just taken, would be taken again with the same lengths left after each."""
        if not all(self._counts[length] for length in pack):
            return 0
        return min((self._counts[length] - 1) // number for length, number in Counter(pack).items())


def _as_integer(bits: npt.NDArray[np.bool_]) -> int:
    return int.from_bytes(np.packbits(bits, bitorder="little").tobytes(), "little")


def exact_fit_packs(counts: Mapping[int, int], seq_len: int) -> list[Run]:
    """One pack at a time: the longest document that fits, again and again, until one or two can fill the rest exactly.

    `counts` is {length: documents}; the result has the lengths in each pack. What goes into a pack follows from which
    lengths are left, so that nothing changes until one of them is used up.
    """
    left = LengthSet(counts)
    runs: list[Run] = []
    while left.longest(seq_len):
        pack = _fill(left, seq_len)
        more = left.repeats(pack)
        for length in pack if more else ():
            left.take(length, more)
        runs.append(Run(pack, 1 + more))
    return runs


def _fill(left: LengthSet, rest: int) -> list[int]:
    pack: list[int] = []
    while longest := left.longest(rest):
        if longest < rest and (longer := left.exact_pair(rest)):
            return [*pack, left.take(longer), left.take(rest - longer)]
        pack.append(left.take(longest))
        rest -= longest
    return pack


def best_fit_packs(counts: Mapping[int, int], seq_len: int) -> list[Run]:
    """Best-fit decreasing: each document, longest first, goes into the pack with the least room that still takes it.

    Runs of packs lie in buckets by their room; the bits of `rooms` say which buckets have any. A pack takes as many
    documents of a length as fit, for with the first of them it becomes the tightest that takes the second.
    """
    buckets: dict[int, list[Run]] = {}
    rooms = 0
    for length in sorted(counts, reverse=True):
        waiting = counts[length]
        while waiting:
            fitting = rooms >> length
            if fitting:
                room = length + (fitting & -fitting).bit_length() - 1
                run = buckets[room].pop()
            else:
                room, run = seq_len, Run([], waiting)
            taken = min(waiting, room // length)
            packs = min(run.packs, waiting // taken)
            if fitting and packs < run.packs:
                buckets[room].append(Run(run.lengths, run.packs - packs))
            if fitting and not buckets[room]:
                rooms ^= 1 << room
            waiting -= packs * taken
            room -= length * taken
            buckets.setdefault(room, []).append(Run(run.lengths + [length] * taken, packs))
            rooms |= 1 << room
    return [run for bucket in buckets.values() for run in bucket]


def order_packs(seed: int, unit: int, block: int, packs: int) -> npt.NDArray[np.int64]:
    """int64[packs]: the packs of a block in the order in which they are written.

    They are sorted by a 64-bit key, equal keys by pack number; a negative seed is taken modulo 2^64.

        key(pack) = mix(mix(mix(mix(seed) XOR unit) XOR block) XOR pack)
    """
    keys = np.zeros(packs, np.uint64)
    for value in (seed, unit, block):
        keys = mix(keys ^ np.uint64(value % 2**64))
    keys = mix(keys ^ np.arange(packs, dtype=np.uint64))
    return np.argsort(keys, kind="stable").astype(np.int64)
