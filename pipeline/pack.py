"""Which documents share a pack, and in which order the packs of a block are written.

Packs are filled one at a time, the longest documents first, and closed exactly as soon as two of the documents left
fill the rest. Best-fit decreasing is computed too, where it could do better, and whichever needs fewer packs is taken.
"""

from collections.abc import Mapping
from dataclasses import dataclass

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


def pack_lengths(lengths: npt.NDArray[np.integer], seq_len: int) -> PackPlan:
    """Put documents of these lengths, int[D], into packs of at most `seq_len`, never more than best-fit decreasing.

    Depends on nothing but its arguments; of documents of one length the earlier goes into the earlier pack.
    Raises AssertionError for a length outside 1 .. seq_len.
    """
    assert not len(lengths) or (lengths.min() > 0 and lengths.max() <= seq_len), "callers reject such documents"
    present, numbers = np.unique(lengths, return_counts=True)
    counts = dict(zip(present.tolist(), numbers.tolist(), strict=True))
    packs = exact_fit_packs(counts, seq_len)
    fewest = -(-int(lengths.sum()) // seq_len)
    if len(packs) > fewest:
        packs = min(packs, best_fit_packs(counts, seq_len), key=len)
    return _assign(packs, lengths)


def _assign(packs: list[list[int]], lengths: npt.NDArray[np.integer]) -> PackPlan:
    """Give each place, of which only the length is known, one of the documents of that length."""
    sizes = [len(pack) for pack in packs]
    places = np.array([length for pack in packs for length in pack], np.int64)
    documents = np.empty(len(lengths), np.int64)
    documents[np.argsort(places, kind="stable")] = np.argsort(lengths, kind="stable")
    pack_of_place = np.repeat(np.arange(len(packs)), sizes)
    in_input_order = np.lexsort((documents, pack_of_place))
    return PackPlan(documents[in_input_order], np.cumsum([0, *sizes], dtype=np.int64))


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

    def take(self, length: int) -> int:
        self._counts[length] -= 1
        if not self._counts[length]:
            self._present ^= 1 << length
            self._mirror ^= 1 << self._longest - length
        return length


def _as_integer(bits: npt.NDArray[np.bool_]) -> int:
    return int.from_bytes(np.packbits(bits, bitorder="little").tobytes(), "little")


def exact_fit_packs(counts: Mapping[int, int], seq_len: int) -> list[list[int]]:
    """One pack at a time: the longest document that fits, again and again, until one or two can fill the rest exactly.

    `counts` is {length: documents}; the result has the lengths in each pack.
    """
    left = LengthSet(counts)
    packs: list[list[int]] = []
    while left.longest(seq_len):
        packs.append(_fill(left, seq_len))
    return packs


def _fill(left: LengthSet, rest: int) -> list[int]:
    pack: list[int] = []
    while longest := left.longest(rest):
        if longest < rest and (longer := left.exact_pair(rest)):
            return [*pack, left.take(longer), left.take(rest - longer)]
        pack.append(left.take(longest))
        rest -= longest
    return pack


def best_fit_packs(counts: Mapping[int, int], seq_len: int) -> list[list[int]]:
    """Best-fit decreasing: each document, longest first, goes into the pack with the least room that still takes it.

    Packs lie in buckets by their room; the bits of `rooms` say which buckets have any. A pack takes as many documents
    of a length as fit, for with the first of them it becomes the tightest that takes the second.
    """
    packs: list[list[int]] = []
    buckets: dict[int, list[list[int]]] = {}
    rooms = 0
    for length in sorted(counts, reverse=True):
        waiting = counts[length]
        while waiting:
            fitting = rooms >> length
            if fitting:
                room = length + (fitting & -fitting).bit_length() - 1
                pack = buckets[room].pop()
                rooms ^= (not buckets[room]) << room
            else:
                room, pack = seq_len, []
                packs.append(pack)
            taken = min(waiting, room // length)
            pack += [length] * taken
            waiting -= taken
            room -= length * taken
            buckets.setdefault(room, []).append(pack)
            rooms |= 1 << room
    return packs


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
