"""A sample of every block goes through the reference as well, chosen by where the rows stand."""

from collections.abc import Callable

import numpy as np

from pipeline.blocks import DocumentBlock
from pipeline.chat.formatter import Tokens
from pipeline.chat.replay.template import ReplayDiffers
from pipeline.columnar.documents import Indices
from pipeline.columnar.sheet_tokens import SheetTokens
from pipeline.columnar.tokenizer import SheetTokenizer
from pipeline.encoders.compare import EngineDifference
from schemas.conversation import Document
from schemas.rejects import RejectRow
from schemas.splitmix import mix

FIRST_CHECKED, CHECKED_ONE_IN = 4, 2048
"""Rows of a block: the first ones, then about one in so many."""


def sampled_rows(block: DocumentBlock, written: SheetTokens) -> Indices:
    """Of the rows whose documents were written from sheets."""
    rows = np.unique(written.row)
    places = np.array(block.positions, np.uint64)[rows] ^ np.array(block.sources, np.uint64)[rows] << np.uint64(48)
    chosen = mix(places) % np.uint64(CHECKED_ONE_IN) == 0
    chosen[:FIRST_CHECKED] = True
    sampled: Indices = rows[chosen]
    return sampled


def check_sample(
    block: DocumentBlock, written: SheetTokens, sheets: SheetTokenizer, tokenize: Callable[[Document], list[Tokens]]
) -> EngineDifference | None:
    """A text that the engine encodes otherwise than the reference. `tokenize` is the reference, without replay. Raises
    ReplayDiffers for any other difference."""
    if written.difference:
        return written.difference
    for row in sampled_rows(block, written).tolist():
        try:
            different = difference(written.tokens_of(row), tokenize(block.documents[row]))
        except RejectRow as reject:
            different = f"the reference rejects it: {reject.reason}, {reject.detail}"
        if different:
            found = sheets.compare_engines(block.documents[row], (block.sources[row], block.positions[row]))
            if found:
                return found
            place = f"source {block.sources[row]}, position {block.positions[row]}"
            raise ReplayDiffers(f"a row written from a sheet is not what the reference gives: {different} ({place})")
    return None


def difference(found: list[Tokens], expected: list[Tokens]) -> str:
    """Where the documents of a row differ, empty where they do not."""
    if len(found) != len(expected):
        return f"{len(found)} and {len(expected)} documents"
    for one, other in zip(found, expected, strict=True):
        if not np.array_equal(one.input_ids, other.input_ids):
            return "ids"
        if not np.array_equal(one.channel, other.channel):
            return f"the channel of token {int(np.flatnonzero(one.channel != other.channel)[0])}"
        if (one.turns, one.straddling, one.truncated) != (other.turns, other.straddling, other.truncated):
            return "turns"
    return ""
