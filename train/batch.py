"""Packs -> the tensors of one micro-batch. This is the one place where targets are shifted and masks are made.

token      BOS  Hi   END | BOS  Yo   END | pad  pad
document    0    0    0  |  1    1    1  |  2    2
position    0    1    2  |  0    1    2  |  0    1
target      Hi  END   -  |  Yo  END   -  |  -    -      "-" is IGNORE: weight 0, never trained
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from train.data import Pack, PackedDataset

IGNORE = -100
"""The target of a place that is not trained; torch's cross entropy gives it a loss of exactly 0."""


@dataclass(frozen=True, slots=True)
class Batch:
    """B packs. A row without a pack, where a micro-batch is short, is zeros and trains nothing."""

    input_ids: Tensor  # int64[B, seq_len]
    position_ids: Tensor  # int64[B, seq_len], restarting with each document
    document_ids: Tensor  # int64[B, seq_len], 0, 1, ... in each row; the padding is a document of its own
    targets: Tensor  # int64[B, seq_len], the next token of the same document, or IGNORE
    weights: Tensor  # float32[B, seq_len], the loss weight of predicting the target; 0 = not trained
    tokens: int  # of documents, without the padding

    def to(self, device: torch.device) -> "Batch":
        names = ("input_ids", "position_ids", "document_ids", "targets", "weights")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})


def load_batch(
    dataset: PackedDataset, numbers: npt.NDArray[np.int64], rows: int, trained: npt.NDArray[np.bool_]
) -> Batch:
    """The batch of the packs of these numbers, at most `rows`; always of the same shape."""
    packs = [dataset[number] for number in numbers.tolist()]
    return make_batch(packs, rows, dataset.manifest.seq_len, trained)


def make_batch(packs: Sequence[Pack], rows: int, seq_len: int, trained: npt.NDArray[np.bool_]) -> Batch:
    """A batch of `rows` rows, of which the first are `packs`; trained: bool[256], a loss policy's table."""
    input_ids, position_ids, document_ids = np.zeros((3, rows, seq_len), dtype=np.int64)
    weights = np.zeros((rows, seq_len), dtype=np.float32)
    for row, pack in enumerate(packs):
        input_ids[row] = pack.input_ids
        position_ids[row], document_ids[row] = number_tokens(pack.doc_lengths, seq_len)
        weights[row] = weigh_targets(pack, trained)
    targets = np.full((rows, seq_len), IGNORE, dtype=np.int64)
    np.copyto(targets[:, :-1], input_ids[:, 1:], where=weights[:, :-1] != 0)
    return Batch(
        input_ids=torch.from_numpy(input_ids),
        position_ids=torch.from_numpy(position_ids),
        document_ids=torch.from_numpy(document_ids),
        targets=torch.from_numpy(targets),
        weights=torch.from_numpy(weights),
        tokens=sum(int(pack.doc_lengths.sum()) for pack in packs),
    )


def number_tokens(
    doc_lengths: npt.NDArray[np.int32], seq_len: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(position_ids, document_ids), int64[seq_len] each; what follows the documents counts as one more."""
    cu_seqlens = np.concatenate(([0], np.cumsum(doc_lengths), [seq_len]))
    lengths = np.diff(cu_seqlens)
    position_ids = np.arange(seq_len) - np.repeat(cu_seqlens[:-1], lengths)
    return position_ids, np.repeat(np.arange(len(lengths)), lengths)


def weigh_targets(pack: Pack, trained: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """float32[seq_len]: at each place the weight of the token after it, 0 where that is of no or another document."""
    weights = np.zeros(len(pack.channel), dtype=np.float32)
    weights[:-1] = trained[pack.channel[1:]]
    if pack.weight is not None:
        weights[:-1] *= pack.weight[1:]
    ends = np.cumsum(pack.doc_lengths)
    weights[ends - 1] = 0
    weights[ends[-1] :] = 0
    return weights
