"""Several data sets as one stream of packs, each with its share of the tokens.

Which data set gives the next pack follows from how many packs each has given, by stride scheduling (Waldspurger and
Weihl, "Stride Scheduling", 1995): a data set's stride is what a pack of it costs, and its next pack is due at

    (packs given + 1/2) * stride,        stride = tokens per pack / weight

The one that is due first gives; of two, the first in the list. So after every pack there is a time T at which each data
set has given as many packs as T / stride rounded, and the shares of tokens are those of the weights.

Without weights the stride is 1 / packs: each data set is gone through once, evenly spread, before any begins again.
Where an epoch reads another generation its strides are those of that one, from the time at which it begins.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import lcm
from typing import NamedTuple

import numpy as np

from schemas.errors import DatasetError
from schemas.recipe import canonical_sha256
from schemas.splitmix import mix
from train.packs import ShardedPacks
from train.stream import Extent, Segment, Stream


class PackRef(NamedTuple):
    """A pack: the index of its data set, and its number there."""

    dataset: int
    pack: int


class Mixture:
    """The stream of packs of several data sets; where it stands is one integer for each, the packs it has given.

    `segments`: the generations that each data set's epochs read; without it all read the one that it is at. Raises
    DatasetError where the data sets do not go together.
    """

    def __init__(
        self,
        datasets: Sequence[ShardedPacks],
        weights: Sequence[float] | None,
        seed: int,
        shuffle_shards: int | None,
        segments: Sequence[Sequence[Segment]] | None = None,
    ) -> None:
        assert datasets
        assert weights is None or len(weights) == len(datasets)
        for dataset in datasets[1:]:
            _check_alike(datasets[0], dataset)
        self.segments = tuple(map(tuple, segments or start_segments(datasets)))
        extents = [
            [dataset.extent(segment.generation) for segment in own]
            for dataset, own in zip(datasets, self.segments, strict=True)
        ]
        strides = _integers(_strides(extents, weights))
        seeds = mix(mix(np.full(len(datasets), seed, dtype=np.uint64)) + np.arange(len(datasets), dtype=np.uint64))
        self._streams = [
            Stream(*each, shuffle_shards) for each in zip(self.segments, extents, strides, seeds.tolist(), strict=True)
        ]
        self.fingerprint = _fingerprint(datasets, self.segments, extents, weights, seed, shuffle_shards)

    def take(self, taken: tuple[int, ...], count: int) -> tuple[list[PackRef], tuple[int, ...]]:
        """The `count` packs that follow where the data sets have given `taken`, and what they have given then."""
        chosen, after = self._choose(taken, count)
        numbers = [stream.take(start, end) for stream, start, end in zip(self._streams, taken, after, strict=True)]
        return [PackRef(dataset, next(numbers[dataset])) for dataset in chosen], after

    def epoch_of(self, dataset: int, position: int) -> int:
        """The epoch in which a data set gives the pack at this position of its own stream."""
        return self._streams[dataset].epoch_of(position)

    def end_of(self, dataset: int, epoch: int) -> int:
        """What a data set has given when the epoch ends."""
        return self._streams[dataset].end_of(epoch)

    def _choose(self, taken: tuple[int, ...], count: int) -> tuple[list[int], tuple[int, ...]]:
        """The data sets that give, one by one. In whole numbers: a run's last pack is as exact as its first."""
        due = [stream.due(given) for stream, given in zip(self._streams, taken, strict=True)]
        chosen, after = [], list(taken)
        for _ in range(count):
            dataset = due.index(min(due))
            after[dataset] += 1
            due[dataset] = self._streams[dataset].due(after[dataset])
            chosen.append(dataset)
        return chosen, tuple(after)


def start_segments(datasets: Sequence[ShardedPacks]) -> tuple[tuple[Segment, ...], ...]:
    """Every epoch reads the generation that the data set is at."""
    return tuple((Segment(dataset.manifest.generation, 0),) for dataset in datasets)


def _strides(extents: Sequence[Sequence[Extent]], weights: Sequence[float] | None) -> list[list[Fraction]]:
    if weights is None:
        return [[Fraction(1, extent.packs) for extent in own] for own in extents]
    exact = [Fraction(str(weight)) for weight in weights]  # what was typed: 0.1 is a tenth
    return [
        [Fraction(extent.tokens, extent.packs) / weight for extent in own]
        for own, weight in zip(extents, exact, strict=True)
    ]


def _integers(fractions: Sequence[Sequence[Fraction]]) -> list[list[int]]:
    """In the same proportion."""
    scale = lcm(*(fraction.denominator for own in fractions for fraction in own))
    return [[int(fraction * scale) for fraction in own] for own in fractions]


def _check_alike(first: ShardedPacks, other: ShardedPacks) -> None:
    for name, ours, theirs in (
        ("seq_len", first.manifest.seq_len, other.manifest.seq_len),
        ("the tokenizer's sha256", first.manifest.tokenizer.sha256, other.manifest.tokenizer.sha256),
    ):
        if ours != theirs:
            raise DatasetError(
                f"{first.path} and {other.path} do not go together: {name} is {ours} in the one and {theirs} in the "
                "other; rebuild one of them with the config of the other"
            )


def _fingerprint(
    datasets: Sequence[ShardedPacks],
    segments: Sequence[Sequence[Segment]],
    extents: Sequence[Sequence[Extent]],
    weights: Sequence[float] | None,
    seed: int,
    shuffle_shards: int | None,
) -> str:
    """sha256 of all that the stream depends on."""
    content: dict[str, object] = {
        "datasets": [
            {
                "holdout": dataset.holdout,
                "segments": [
                    {"epoch": segment.epoch, **extent._asdict()} for segment, extent in zip(own, reads, strict=True)
                ],
            }
            for dataset, own, reads in zip(datasets, segments, extents, strict=True)
        ],
        "weights": None if weights is None else [str(weight) for weight in weights],
        "seed": seed,
        "shuffle_shards": shuffle_shards,
    }
    return canonical_sha256(content)
