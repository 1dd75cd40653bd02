"""The data set for other trainers: a map-style dataset of torch, and the collate function that goes with it.

docs/integrate.md shows both in a plain loop and in the Trainer of transformers.
"""

from collections.abc import Callable, Sequence
from operator import index
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from schemas.errors import ConfigError
from schemas.policy import PRESETS, LossPolicy
from train.packs import Pack, ShardedPacks, count_trained_tokens, find_borders, number_tokens

IGNORE = -100
"""The label of a token that is not trained, as torch's cross entropy and transformers have it."""

Policy = npt.NDArray[np.bool_]  # [256], by channel byte


class PackedDataset(Dataset[dict[str, Tensor]]):
    """The packs of a local data set, by number. An item has the `columns` asked for, where None all that there are:

    input_ids     int64[seq_len]
    labels        int64[seq_len], unshifted: the token itself where the policy trains it, else IGNORE
    position_ids  int64[seq_len], restarting with each document; padding is a document of its own
    cu_seqlens    int32[D + 1], the borders of these D documents, 0 ... seq_len
    loss_weights  float32[seq_len], by which the loss of a label is multiplied, 0 where that is IGNORE;
                  only in a data set that was built with `loss_weights`

    No document's first token has a label, so none is predicted from the document before it. Raises DatasetError for a
    data set that cannot be read, ConfigError for an unknown policy or column and for a policy that trains nothing.
    """

    def __init__(
        self,
        path: str,
        loss_policy: str | LossPolicy = "assistant",
        holdout: bool = False,
        columns: Sequence[str] | None = None,
    ) -> None:
        policy = _find_policy(loss_policy)
        self.packs = ShardedPacks(path, holdout)
        self.columns = _choose_columns(columns, self.packs)
        self._policy = policy.table()
        if "labels" in self.columns:
            count_trained_tokens(self.packs.manifest, policy, holdout)

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """Raises IndexError outside of -len ... len - 1, and TypeError for what is no integer, such as a slice."""
        count = len(self.packs)
        if not -count <= index(number) < count:
            raise IndexError(f"pack {number} of a data set of {count} packs")
        pack = self.packs[index(number) % count]
        return {column: torch.from_numpy(_COLUMNS[column](pack, self._policy)) for column in self.columns}


def _find_policy(loss_policy: str | LossPolicy) -> LossPolicy:
    if isinstance(loss_policy, LossPolicy):
        return loss_policy
    if loss_policy not in PRESETS:
        raise ConfigError(f"unknown loss_policy {loss_policy!r}; give one of {', '.join(PRESETS)}, or a LossPolicy")
    return PRESETS[loss_policy]


def _choose_columns(asked: Sequence[str] | None, packs: ShardedPacks) -> tuple[str, ...]:
    there = tuple(column for column in _COLUMNS if column != "loss_weights" or packs[0].weight is not None)
    for column in asked or ():
        if column not in there:
            raise ConfigError(f"{packs.path} has no column {column!r}; choose from {', '.join(there)}")
    return there if asked is None else tuple(asked)


def _input_ids(pack: Pack, _policy: Policy) -> npt.NDArray[np.int64]:
    return pack.input_ids.astype(np.int64)


def _labels(pack: Pack, policy: Policy) -> npt.NDArray[np.int64]:
    return np.where(_is_trained(pack, policy), pack.input_ids, np.int64(IGNORE))


def _position_ids(pack: Pack, _policy: Policy) -> npt.NDArray[np.int64]:
    return number_tokens(find_borders(pack.doc_lengths, len(pack.input_ids)))[0]


def _cu_seqlens(pack: Pack, _policy: Policy) -> npt.NDArray[np.int32]:
    return find_borders(pack.doc_lengths, len(pack.input_ids))


def _loss_weights(pack: Pack, policy: Policy) -> npt.NDArray[np.float32]:
    assert pack.weight is not None
    return np.where(_is_trained(pack, policy), pack.weight, np.float32(0))


def _is_trained(pack: Pack, policy: Policy) -> npt.NDArray[np.bool_]:
    trained = policy.take(pack.channel)
    trained[int(pack.doc_lengths.sum()) :] = False  # the padding's channel is one that a policy may train
    return trained


_COLUMNS: dict[str, Callable[[Pack, Policy], npt.NDArray[Any]]] = {
    "input_ids": _input_ids,
    "labels": _labels,
    "position_ids": _position_ids,
    "cu_seqlens": _cu_seqlens,
    "loss_weights": _loss_weights,
}


def collate(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A batch of B items, in which all columns are stacked to [B, seq_len], but cu_seqlens: int32, the borders of the
    documents of all rows laid end to end, 0 ... B * seq_len.
    """
    return {
        column: _join_borders([row[column] for row in rows])
        if column == "cu_seqlens"
        else torch.stack([row[column] for row in rows])
        for column in rows[0]
    }


def _join_borders(rows: Sequence[Tensor]) -> Tensor:
    seq_len = int(rows[0][-1])
    starts = [borders[:-1] + row * seq_len for row, borders in enumerate(rows)]
    return torch.cat([*starts, rows[-1][-1:] + (len(rows) - 1) * seq_len])
