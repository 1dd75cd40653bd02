"""Several data sets as one stream of packs, each with its share of the tokens.

Which data set gives the next pack follows from how many packs each has given, by stride scheduling (Waldspurger and
Weihl, "Stride Scheduling", 1995): a data set's stride is what a pack of it costs, and its next pack is due at

    (packs given + 1/2) * stride,        stride = tokens per pack / weight

The one that is due first gives; of two, the first in the list. So after every pack there is a time T at which each data
set has given as many packs as T / stride rounded, and the shares of tokens are those of the weights.

Without weights the stride is 1 / packs: each data set is gone through once, evenly spread, before any begins again.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import lcm
from typing import NamedTuple

import numpy as np

from schemas.errors import DatasetError
from schemas.recipe import canonical_sha256
from schemas.splitmix import mix
from train.order import PackOrder
from train.packs import ShardedPacks


class PackRef(NamedTuple):
    """A pack: the index of its data set, and its number there."""

    dataset: int
    pack: int


class Mixture:
    """The stream of packs of several data sets; where it stands is one integer for each, the packs it has given.

    Raises DatasetError where the data sets do not go together.
    """

    def __init__(
        self, datasets: Sequence[ShardedPacks], weights: Sequence[float] | None, seed: int, shuffle_shards: int | None
    ) -> None:
        assert datasets
        assert weights is None or len(weights) == len(datasets)
        for dataset in datasets[1:]:
            _check_alike(datasets[0], dataset)
        packs = [[shard.packs for shard in dataset.shards] for dataset in datasets]
        seeds = mix(mix(np.full(len(packs), seed, dtype=np.uint64)) + np.arange(len(packs), dtype=np.uint64))
        self._orders = [PackOrder(*each, shuffle_shards) for each in zip(packs, seeds.tolist(), strict=True)]
        self._strides = _integers(_strides(datasets, weights))
        self.fingerprint = _fingerprint(datasets, weights, seed, shuffle_shards)

    def take(self, taken: tuple[int, ...], count: int) -> tuple[list[PackRef], tuple[int, ...]]:
        """The `count` packs that follow where the data sets have given `taken`, and what they have given then."""
        chosen, after = self._choose(taken, count)
        numbers = [
            iter(order.take(start, end - start).tolist())
            for order, start, end in zip(self._orders, taken, after, strict=True)
        ]
        return [PackRef(dataset, next(numbers[dataset])) for dataset in chosen], after

    def _choose(self, taken: tuple[int, ...], count: int) -> tuple[list[int], tuple[int, ...]]:
        """The data sets that give, one by one. In whole numbers: a run's last pack is as exact as its first."""
        due = [(2 * given + 1) * stride for given, stride in zip(taken, self._strides, strict=True)]
        chosen, after = [], list(taken)
        for _ in range(count):
            dataset = due.index(min(due))
            due[dataset] += 2 * self._strides[dataset]
            after[dataset] += 1
            chosen.append(dataset)
        return chosen, tuple(after)


def _strides(datasets: Sequence[ShardedPacks], weights: Sequence[float] | None) -> list[Fraction]:
    if weights is None:
        return [Fraction(1, len(dataset)) for dataset in datasets]
    exact = [Fraction(str(weight)) for weight in weights]  # what was typed: 0.1 is a tenth
    return [Fraction(dataset.tokens, len(dataset)) / weight for dataset, weight in zip(datasets, exact, strict=True)]


def _integers(fractions: Sequence[Fraction]) -> list[int]:
    """In the same proportion."""
    scale = lcm(*(fraction.denominator for fraction in fractions))
    return [int(fraction * scale) for fraction in fractions]


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
    datasets: Sequence[ShardedPacks], weights: Sequence[float] | None, seed: int, shuffle_shards: int | None
) -> str:
    """sha256 of all that the stream depends on."""
    content: dict[str, object] = {
        "datasets": [
            {
                "id": dataset.manifest.id,
                "holdout": dataset.holdout,
                "tokens": dataset.tokens,
                "shard_packs": [shard.packs for shard in dataset.shards],
            }
            for dataset in datasets
        ],
        "weights": None if weights is None else [str(weight) for weight in weights],
        "seed": seed,
        "shuffle_shards": shuffle_shards,
    }
    return canonical_sha256(content)
