"""Where documents are in rows, for tests of the model."""

import torch
from torch import Tensor


def rows_of(lengths: list[list[int]], seq_len: int) -> tuple[Tensor, Tensor, Tensor]:
    """(position_ids, document_ids, cu_seqlens) of rows of documents; what is left of a row is a document too."""
    filled = [[*row, seq_len - sum(row)] if sum(row) < seq_len else row for row in lengths]
    positions = [[place for length in row for place in range(length)] for row in filled]
    documents = [[number for number, length in enumerate(row) for _ in range(length)] for row in filled]
    ends = torch.tensor([0, *(length for row in filled for length in row)], dtype=torch.int32).cumsum(0)
    return torch.tensor(positions), torch.tensor(documents, dtype=torch.int32), ends.int()
