"""Losses told apart: by data set, and within one by source where that is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from train.config import DatasetConfig
from train.metrics import LossSum
from train.packs import ShardedPacks

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of the data sets laid end to end: each data set has one, or one for each of its sources."""

    names: list[str]  # of the data sets, each another
    sources: list[list[str]]  # of each data set's groups
    by_source: bool

    @property
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
        totals = zip(sums.tolist(), weights.tolist(), strict=True)
        return {source: LossSum(*total) for source, total in zip(sources, totals, strict=True) if total[1]}


def group_losses(configs: Sequence[DatasetConfig], datasets: Sequence[ShardedPacks], by_source: bool) -> Groups:
    sources = [[source.path for source in dataset.manifest.sources] if by_source else [""] for dataset in datasets]
    return Groups(name_datasets(configs), sources, by_source)


def name_datasets(configs: Sequence[DatasetConfig]) -> list[str]:
    """The last part of each path, or the whole where that is not enough to tell them apart."""
    short = [config.path.rstrip("/").rpartition("/")[2] for config in configs]
    names = short if len(set(short)) == len(short) else [config.path for config in configs]
    marked = [f"{name} (holdout)" if config.holdout else name for name, config in zip(names, configs, strict=True)]
    return marked if len(set(marked)) == len(marked) else [f"{name} #{index}" for index, name in enumerate(marked)]
