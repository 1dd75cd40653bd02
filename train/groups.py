"""Losses told apart: by data set, and within one by source where that is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from train.config import DatasetConfig
from train.metrics import LossSum
from train.packs import ShardedPacks

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Groups:
    """The groups of the data sets laid end to end: each data set has one, or one for each of its sources."""

    names: list[str]  # of the data sets, each another
    sources: list[list[str]]  # of each data set's groups
    by_source: bool

    @cached_property
    def firsts(self) -> list[int]:
        return [0, *accumulate(map(len, self.sources))][:-1]

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def by_dataset(self, sums: Floats, weights: Floats) -> dict[str, LossSum]:
        """The losses of each data set's groups together; float64[groups] each."""
        totals = zip(*(np.add.reduceat(values, self.firsts).tolist() for values in (sums, weights)), strict=True)
        return {name: LossSum(*total) for name, total in zip(self.names, totals, strict=True)}

    def each(self, sums: Floats, weights: Floats) -> dict[str, LossSum]:
        """The losses of each source; empty where sources are not told apart."""
        if not self.by_source:
            return {}
        sources = [f"{name}: {source}" for name, own in zip(self.names, self.sources, strict=True) for source in own]
        told: dict[str, LossSum] = {}
        for source, loss, weight in zip(sources, sums.tolist(), weights.tolist(), strict=True):
            if weight:  # a source may be there twice, with two transforms
                before = told.get(source, LossSum(0.0, 0.0))
                told[source] = LossSum(before.loss + loss, before.weight + weight)
        return told


def group_losses(configs: Sequence[DatasetConfig], datasets: Sequence[ShardedPacks], by_source: bool) -> Groups:
    sources = [[source.path for source in dataset.manifest.sources] for dataset in datasets]
    return Groups(name_datasets(configs), sources if by_source else [[""]] * len(datasets), by_source)


def name_datasets(configs: Sequence[DatasetConfig]) -> list[str]:
    """The last part of each path, or the whole where that is not enough to tell them apart."""
    marks = [" (holdout)" if config.holdout else "" for config in configs]
    whole = [f"{config.path}{mark}" for config, mark in zip(configs, marks, strict=True)]
    short = [f"{config.path.rstrip('/').rpartition('/')[2]}{mark}" for config, mark in zip(configs, marks, strict=True)]
    numbered = [f"{name} #{index}" for index, name in enumerate(short)]
    return next(names for names in (short, whole, numbered) if len(set(names)) == len(names))
