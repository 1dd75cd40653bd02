"""Which of the documents stay, and how much of them: the config's rules, over columns."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.columnar.documents import Assigned, Indices
from pipeline.columnar.tokens import DocumentTokens
from pipeline.config import TooLong
from schemas.rejects import Reason


@dataclass(frozen=True, slots=True)
class Rules:
    """`trained`: the loss policy's bool[256]."""

    seq_len: int
    too_long: TooLong
    trained: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Kept:
    """K documents: document `of[k]`, tokens [start[k], start[k] + length[k]) of all, the piece of its row. `rejects`
    are rows with a reason and its detail; `left` are rows for the reference, those to be made shorter among them."""

    of: Indices
    start: Indices
    length: Indices
    piece: Indices
    truncated: npt.NDArray[np.bool_]
    rejects: list[tuple[int, Reason, str]]
    left: Indices


def keep_documents(
    assigned: Assigned, tokens: DocumentTokens, trained: Indices, doubtful: Indices, rules: Rules
) -> Kept:
    """`trained` are the places of the tokens that the policy trains; `doubtful` are rows that are left to the
    reference, whatever became of them here."""
    lengths = np.diff(tokens.offsets)
    longest = np.zeros(int(assigned.row.max(initial=-1)) + 1, np.int64)
    np.maximum.at(longest, assigned.row, lengths)
    stays = ~np.isin(assigned.row, doubtful)
    too_long = stays & (longest[assigned.row] > rules.seq_len)
    splits = too_long & assigned.is_text & (rules.too_long == "split")
    cuts = too_long & (rules.too_long == "truncate")
    refused = too_long & ~splits & ~cuts
    left = doubtful
    rejects: list[tuple[int, Reason, str]] = []
    if rules.too_long == "truncate_turns":
        shortened = refused & ~assigned.is_text
        left = np.union1d(left, assigned.row[shortened])
        refused &= ~shortened
        stays &= ~np.isin(assigned.row, left)
    for row in np.unique(assigned.row[refused]).tolist():
        rejects.append((row, Reason.TOO_LONG, f"{longest[row]} tokens, seq_len is {rules.seq_len}"))
    stays &= ~refused
    of, start, length = _pieces(np.flatnonzero(stays), tokens.offsets, splits, rules.seq_len)
    truncated = length > rules.seq_len
    length = np.minimum(length, rules.seq_len)
    is_trained = _counts(trained, start + 1, start + length) > 0
    row_is_trained = np.zeros(len(longest), np.bool_)
    row_is_trained[assigned.row[of[is_trained]]] = True
    for row in np.unique(assigned.row[of][~row_is_trained[assigned.row[of]]]).tolist():
        rejects.append((row, Reason.NO_TRAINED_TOKENS, "no token of it is trained under loss_policy"))
    chosen = is_trained | (assigned.is_text[of] & row_is_trained[assigned.row[of]])
    of, start, length, truncated = of[chosen], start[chosen], length[chosen], truncated[chosen]
    return Kept(of, start, length, _numbers(assigned.row[of]), truncated, rejects, left)


def _pieces(
    documents: Indices, offsets: Indices, splits: npt.NDArray[np.bool_], seq_len: int
) -> tuple[Indices, Indices, Indices]:
    """The document, start and length of each piece. A piece of a text that is split begins with the last token of the
    one before, as context."""
    sizes = np.diff(offsets)[documents]
    step = seq_len - 1
    counts = np.where(splits[documents], -(-(sizes - 1) // step), 1)
    of = np.repeat(np.arange(len(documents)), counts)
    number = np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts)
    begin = number * step
    length = sizes[of] - begin
    length = np.where(splits[documents][of], np.minimum(length, seq_len), length)
    return documents[of], offsets[documents][of] + begin, length


def _counts(places: Indices, start: Indices, stop: Indices) -> Indices:
    """How many of the places, which are in order, lie in each [start, stop)."""
    return np.searchsorted(places, stop) - np.searchsorted(places, start)


def _numbers(rows: Indices) -> Indices:
    """0, 1, ... within each run of equal rows."""
    if not len(rows):
        return rows
    begins = np.flatnonzero(np.diff(rows, prepend=-1))
    return np.arange(len(rows)) - np.repeat(begins, np.diff(np.append(begins, len(rows))))
