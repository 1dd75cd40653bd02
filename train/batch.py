"""Packs -> the tensors of one micro-batch. This is the one place where targets are shifted and weights are made.

token      BOS  Hi   END | BOS  Yo   END | pad  pad
document    0    0    0  |  1    1    1  |  2    2
position    0    1    2  |  0    1    2  |  0    1
target      Hi  END   -  |  Yo  END   -  |  -    -      "-" is never trained

What is trained is kept as a list of places with their targets and weights, so that nothing is computed for the others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from train.flops import count_pairs
from train.packs import Pack, find_borders, find_positions

Floats = npt.NDArray[np.float64]

_NO_DOCUMENTS = np.zeros(0, dtype=np.int32)
_NOTHING = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float64), np.zeros(0, np.int64))

TrainedColumns: TypeAlias = tuple[npt.NDArray[Any], ...]
"""(places, targets, weights, groups)"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A pack with what its data set says of it: its loss policy's table, and the groups in which losses are told."""

    pack: Pack
    table: npt.NDArray[np.bool_]  # [256]
    first_group: int  # that of the data set's first source
    by_source: bool  # else all sources are in the first group

    def groups(self) -> npt.NDArray[np.int64]:
        """int64[documents]"""
        return self.first_group + self.pack.doc_source.astype(np.int64) * self.by_source


@dataclass(frozen=True, slots=True)
class Batch:
    """B rows. A row without a pack, where a micro-batch is short, is zeros and trains nothing."""

    input_ids: Tensor  # int64[B, seq_len]
    position_ids: Tensor  # int64[B, seq_len], restarting with each document
    document_ids: Tensor  # int32[B, seq_len], 0, 1, ... in each row; the padding is a document of its own
    cu_seqlens: Tensor  # int32[...], borders of all documents of the rows laid end to end; the last one is repeated
    places: Tensor  # int64[N], see train.loss
    targets: Tensor  # int64[N]
    weights: Tensor  # float64[N]
    groups: Tensor  # int64[N], the group whose loss it belongs to
    tokens: int  # of documents, without the padding
    pairs: int  # of a query and a key that it sees, see train.flops

    def to(self, device: torch.device) -> "Batch":
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: function(value) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **moved)


def make_batch(
    entries: Sequence[Entry], rows: int, seq_len: int, *, per_document: bool, windows: Sequence[int | None] = (None,)
) -> Batch:
    """A batch of `rows` rows, of which the first are `entries`.

    per_document: each document weighs 1 in all; windows: those of the model's layers.
    """
    input_ids, position_ids = np.zeros((2, rows, seq_len), dtype=np.int64)
    document_ids = np.zeros((rows, seq_len), dtype=np.int32)
    borders: list[npt.NDArray[np.int64]] = [np.zeros(1, dtype=np.int64)]
    trained: list[TrainedColumns] = [_NOTHING]
    for row in range(rows):
        own = find_borders(entries[row].pack.doc_lengths if row < len(entries) else _NO_DOCUMENTS, seq_len)
        position_ids[row] = find_positions(own)
        document_ids[row] = np.repeat(np.arange(len(own) - 1), np.diff(own))
        borders.append(row * seq_len + own[1:].astype(np.int64))
    for row, entry in enumerate(entries):
        input_ids[row] = entry.pack.input_ids
        trained.append(_list_trained(entry, row * seq_len, per_document))
    places, targets, weights, groups = (np.concatenate(columns) for columns in zip(*trained, strict=True))
    return Batch(
        input_ids=torch.from_numpy(input_ids),
        position_ids=torch.from_numpy(position_ids),
        document_ids=torch.from_numpy(document_ids),
        cu_seqlens=torch.from_numpy(_pad_borders(np.concatenate(borders))),
        places=torch.from_numpy(places),
        targets=torch.from_numpy(targets),
        weights=torch.from_numpy(weights),
        groups=torch.from_numpy(groups),
        tokens=sum(int(entry.pack.doc_lengths.sum()) for entry in entries),
        pairs=sum(count_pairs(entry.pack.doc_lengths.tolist(), windows) for entry in entries),
    )


def weigh_targets(pack: Pack, table: npt.NDArray[np.bool_]) -> Floats:
    """float64[seq_len]: at each place the weight of the token after it, 0 where that is of no or another document."""
    weights = np.zeros(len(pack.channel), dtype=np.float64)
    weights[:-1] = table[pack.channel[1:]]
    if pack.weight is not None:
        weights[:-1] *= pack.weight[1:]
    ends = np.cumsum(pack.doc_lengths)
    weights[ends - 1] = 0
    weights[ends[-1] :] = 0
    return weights


def weigh_documents(weights: Floats, lengths: npt.NDArray[np.int32]) -> Floats:
    """The weights of each document divided by their sum, so that the step's loss is the mean of documents' means."""
    starts = np.cumsum(lengths) - lengths
    sums = np.add.reduceat(weights[: int(lengths.sum())], starts)
    scaled = weights.copy()
    scaled[: int(lengths.sum())] /= np.repeat(np.where(sums > 0, sums, 1.0), lengths)
    return scaled


def _list_trained(entry: Entry, start: int, per_document: bool) -> TrainedColumns:
    """Of a row whose first token is at `start` of the flattened batch."""
    pack = entry.pack
    weights = weigh_targets(pack, entry.table)
    if per_document:
        weights = weigh_documents(weights, pack.doc_lengths)
    places = np.flatnonzero(weights)
    groups = np.repeat(entry.groups(), pack.doc_lengths)[places]
    return places + start, pack.input_ids[places + 1].astype(np.int64), weights[places], groups


def _pad_borders(borders: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """To a power of two, by repeating the last: few shapes for compiled kernels; a document of length 0 is no work."""
    missing = (1 << (len(borders) - 1).bit_length()) - len(borders)
    return np.pad(borders, (0, missing), mode="edge").astype(np.int32)
