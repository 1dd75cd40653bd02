"""A data set for trainers other than ours: pack number -> the tensors of one row, for torch's DataLoader.

shards --ShardedPacks--> pack --PackedDataset--> {column: tensor} --collate--> {column: tensor of the batch}

docs/integrate.md shows the use. What is trained is what our own trainer trains.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from operator import index
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from schemas.errors import ConfigError
from schemas.generations import Generation
from schemas.policy import LossPolicy, parse_policy
from schemas.shard import Packs
from train.packs import ShardedPacks, find_borders, find_positions

Column = Literal["input_ids", "labels", "position_ids", "cu_seqlens", "loss_weights"]

IGNORED = -100
"""The label of a token that is not trained, as torch's cross_entropy and transformers have it."""


class PackedDataset(Dataset[dict[str, Tensor]]):
    """The packs of a data set, each a row of T = seq_len tokens with D documents, padding included.

    input_ids     int64[T]      the documents one after the other, then the padding
    labels        int64[T]      input_ids where the token is trained, else -100. Not shifted: a token's label is itself
    position_ids  int64[T]      0, 1, ... in each document; the padding counts as a document
    cu_seqlens    int32[D + 1]  the borders of the documents, 0 ... T
    loss_weights  float32[T]    the weight of the token's loss, 0 where it is not trained; where the data set has any

    `loss_policy` is a policy, a preset's name, or terms as YAML. With `holdout` the packs are those of the holdout
    shards. `columns`: make these alone. `profile` and `generation` as in the trainer's config; shards on a store are
    kept in the folder `cache`. Raises DatasetError for a data set that cannot be read and for a damaged shard, when it
    is first used; ConfigError for a policy that trains nothing and for columns that are not there. Pickles; a copy
    opens the shards anew, at the same generation.
    """

    def __init__(
        self,
        path: str,
        loss_policy: str | LossPolicy = "assistant",
        holdout: bool = False,
        columns: Sequence[Column] | None = None,
        *,
        profile: str | None = None,
        generation: Generation = "latest",
        cache: str | Path | None = None,
    ) -> None:
        policy = parse_policy(loss_policy, "loss_policy") if isinstance(loss_policy, str) else loss_policy
        self.packs = ShardedPacks(path, holdout, profile, generation, cache)
        self.columns = _choose_columns(columns, self.packs)
        if {"labels", "loss_weights"} & set(self.columns):
            self.packs.count_trained_tokens(policy)
        self._untrained = ~policy.table()

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        place, size = index(number), len(self.packs)
        if not -size <= place < size:
            raise IndexError(f"pack {place} is not there: the data set has {size} packs")
        row = _Row(*self.packs.locate(place % size), self._untrained)
        return {column: getattr(row, column)() for column in self.columns}


class _Row:
    """The columns of one pack, each made by the method of its name. untrained: bool[256], of channels."""

    def __init__(self, packs: Packs, row: int, untrained: npt.NDArray[np.bool_]) -> None:
        self._packs, self._row, self._table = packs, row, untrained

    @cached_property
    def _borders(self) -> npt.NDArray[np.int32]:
        lengths = self._packs.doc_lengths[self._packs.documents(self._row)]
        return find_borders(lengths, self._packs.input_ids.shape[1])

    @cached_property
    def _untrained(self) -> Tensor:
        """bool[T]"""
        packs, row = self._packs, self._row
        untrained = self._table.take(packs.channel[row])
        untrained[self._borders[:-1]] = True  # no token of its document is before it that could predict it
        documents = packs.documents(row)
        untrained[self._borders[documents.stop - documents.start] :] = True  # the padding
        if packs.weight is not None:
            untrained |= packs.weight[row] == 0
        return torch.from_numpy(untrained)

    def input_ids(self) -> Tensor:
        return torch.from_numpy(self._packs.input_ids[self._row].astype(np.int64))

    def labels(self) -> Tensor:
        return self.input_ids().masked_fill_(self._untrained, IGNORED)

    def position_ids(self) -> Tensor:
        return torch.from_numpy(find_positions(self._borders))

    def cu_seqlens(self) -> Tensor:
        return torch.from_numpy(self._borders)

    def loss_weights(self) -> Tensor:
        assert self._packs.weight is not None
        return torch.from_numpy(self._packs.weight[self._row].copy()).masked_fill_(self._untrained, 0.0)


def collate(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The batch of B rows: each column stacked to [B, T].

    cu_seqlens alone is int32[documents of all rows + 1], the borders in the rows laid end to end: 0 ... B * T.
    """
    return {
        column: _join_borders([row[column] for row in rows])
        if column == "cu_seqlens"
        else torch.stack([row[column] for row in rows])
        for column in rows[0]
    }


def _join_borders(rows: Sequence[Tensor]) -> Tensor:
    """Of B rows that are equally long."""
    seq_len = int(rows[0][-1])
    return torch.cat([rows[0][:1], *(borders[1:] + number * seq_len for number, borders in enumerate(rows))])


def _choose_columns(asked: Sequence[Column] | None, packs: ShardedPacks) -> tuple[Column, ...]:
    weighted = packs[0].weight is not None
    there: tuple[Column, ...] = tuple(column for column in get_args(Column) if weighted or column != "loss_weights")
    missing = [column for column in asked or () if column not in there]
    if missing:
        raise ConfigError(f"{packs.path}: columns {missing} are not there; there are {', '.join(there)}")
    return there if asked is None else tuple(asked)
