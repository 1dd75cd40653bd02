"""Packing: documents into rows of `seq_len`, each document in exactly one of them.

Packs are filled one at a time, the largest documents first, and closed exactly as soon as two of the documents left
fill the rest. The lengths that are left are one integer of bits, so that "the longest that fits" and "two that fill
exactly" are a few operations on whole words (Krell et al. 2021, arXiv:2107.02027, pack on the histogram too; the
exact pair is ours). Best-fit decreasing (Ding et al. 2024, arXiv:2404.10830) is computed beside it, and whichever
needs fewer packs is taken.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Lengths = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PackPlan:
    """Pack p holds documents[offsets[p]:offsets[p + 1]], indices in the order of the input."""

    documents: npt.NDArray[np.int64]  # [D], a permutation
    offsets: npt.NDArray[np.int64]  # [P + 1]

    def __len__(self) -> int:
        return len(self.offsets) - 1


def pack_lengths(lengths: npt.NDArray[np.integer], seq_len: int) -> PackPlan:
    """Place documents of the given lengths, each from 1 to seq_len. Deterministic, near linear in the documents."""
    assert len(lengths) == 0 or (int(lengths.min()) >= 1 and int(lengths.max()) <= seq_len)
    counts = np.bincount(lengths, minlength=seq_len + 1).tolist()
    exact = list(fill_exactly(counts, seq_len))
    best_fit = best_fit_decreasing(counts, seq_len)
    return _assign(lengths.astype(np.int64), exact if len(exact) <= len(best_fit) else best_fit)


def fill_exactly(counts: list[int], seq_len: int) -> Iterable[list[int]]:
    """Yield packs as lists of lengths, given how many documents there are of each length."""
    left = _LengthsLeft(counts, seq_len)
    while left.bits:
        pack: list[int] = []
        free = seq_len
        while (largest := left.largest(free)) > 0:
            pair = left.pair(free) if largest < free else None
            for length in pair or (largest,):
                left.take(length)
                pack.append(length)
                free -= length
        yield pack


class _LengthsLeft:
    """The multiset of lengths left: bit a of `bits` is set where a document of length a is, bit seq_len - a of
    `mirror` likewise."""

    def __init__(self, counts: list[int], seq_len: int) -> None:
        self._counts = list(counts)
        self._seq_len = seq_len
        self.bits = sum(1 << length for length, count in enumerate(counts) if count)
        self._mirror = sum(1 << (seq_len - length) for length, count in enumerate(counts) if count)

    def largest(self, free: int) -> int:
        """The greatest length of at most `free`, 0 where there is none."""
        return max((self.bits & ((1 << (free + 1)) - 1)).bit_length() - 1, 0)

    def pair(self, free: int) -> tuple[int, int] | None:
        """Two lengths of two documents that add up to `free`, as unequal as can be."""
        candidates = self.bits & (self._mirror >> (self._seq_len - free)) & ((1 << free) - 1)
        if free % 2 == 0 and self._counts[free // 2] == 1:
            candidates &= ~(1 << (free // 2))
        longest = candidates.bit_length() - 1
        return (longest, free - longest) if longest > 0 else None

    def take(self, length: int) -> None:
        self._counts[length] -= 1
        if self._counts[length] == 0:
            self.bits ^= 1 << length
            self._mirror ^= 1 << (self._seq_len - length)


def best_fit_decreasing(counts: list[int], seq_len: int) -> list[list[int]]:
    """The textbook algorithm on a histogram: each document, the longest first, goes where it fits tightest."""
    by_free: list[list[list[int]]] = [[] for _ in range(seq_len + 1)]
    open_bits = 0  # bit f: some pack has exactly f free
    packs: list[list[int]] = []
    for length in range(len(counts) - 1, 0, -1):
        for _ in range(counts[length]):
            fitting = open_bits >> length
            if fitting:
                free = length + (fitting & -fitting).bit_length() - 1
                pack = by_free[free].pop()
                open_bits ^= (not by_free[free]) << free
            else:
                free, pack = seq_len, []
                packs.append(pack)
            pack.append(length)
            by_free[free - length].append(pack)
            open_bits |= 1 << (free - length)
    return packs


def _assign(lengths: Lengths, packs: list[list[int]]) -> PackPlan:
    """Documents to places: of equal lengths the first comes first, and within a pack they keep their order."""
    offsets = np.cumsum([0, *map(len, packs)], dtype=np.int64)
    places = np.array([length for pack in packs for length in pack], np.int64)
    documents = np.empty(len(lengths), np.int64)
    documents[np.argsort(places, kind="stable")] = np.argsort(lengths, kind="stable")
    pack_of_place = np.repeat(np.arange(len(packs)), np.diff(offsets))
    order = np.lexsort((documents, pack_of_place))
    return PackPlan(documents[order], offsets)


def order_packs(seed: int, unit: int, block: int, packs: int) -> npt.NDArray[np.int64]:
    """int64[packs]: the order in which a block's packs are written, by a keyed 64-bit hash.

    hash(p) = mix(mix(mix(mix(seed) ^ unit) ^ block) ^ p) with all numbers modulo 2^64, where mix is the finalizer of
    splitmix64 (Steele, Lea, Flood 2014) on its input plus 0x9E3779B97F4A7C15. Packs are sorted by it; equal hashes by
    the pack's number.
    """
    with np.errstate(over="ignore"):
        key = _mix(_mix(_mix(np.array([seed % 2**64], np.uint64)) ^ np.uint64(unit)) ^ np.uint64(block))
        hashes = _mix(key ^ np.arange(packs, dtype=np.uint64))
    return np.argsort(hashes, kind="stable")


def _mix(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
