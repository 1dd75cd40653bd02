"""What came of the documents that were written from sheets, and which rows are left to the reference."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from pipeline.chat.formatter import Tokens, Turn
from pipeline.chat.layout import DocumentLayout
from pipeline.columnar.documents import Indices
from pipeline.columnar.rules import Kept
from pipeline.columnar.sheet import SheetTable
from pipeline.columnar.tokens import DocumentTokens
from pipeline.encoders.compare import EngineDifference
from pipeline.turns import TurnAudit
from schemas.channels import NO_LOSS
from schemas.rejects import Reason

Layouts = Mapping[int, list[DocumentLayout] | None]
"""Rows for the reference, with their layouts where they have been laid out."""


@dataclass(frozen=True, slots=True)
class SheetTokens:
    """`row` int64[K] is the row of each kept document; `rejects` are rows with a reason and its detail. `difference`: a
    text of which the engine has lost bytes."""

    tokens: DocumentTokens
    kept: Kept
    row: Indices
    left: Layouts
    rejects: list[tuple[int, Reason, str]] = field(default_factory=list)
    turns: TurnAudit = field(default_factory=TurnAudit)
    difference: EngineDifference | None = None

    @property
    def truncated(self) -> int:
        """Rows."""
        return len(np.unique(self.row[self.kept.truncated]))

    @property
    def straddling(self) -> int:
        return int(self.tokens.straddling[self.kept.of].sum())

    def tokens_of(self, row: int) -> list[Tokens]:
        """The documents of a row as the reference gives them."""
        return [self._tokens(document) for document in np.flatnonzero(self.row == row).tolist()]

    def _tokens(self, document: int) -> Tokens:
        start, length = int(self.kept.start[document]), int(self.kept.length[document])
        channel = self.tokens.channel[start : start + length].copy()
        channel[:1] |= NO_LOSS
        return Tokens(
            self.tokens.input_ids[start : start + length],
            channel,
            straddling=int(self.tokens.straddling[self.kept.of[document]]),
            truncated=bool(self.kept.truncated[document]),
            turns=tuple(self._turns(int(self.kept.of[document]), start, start + length)),
        )

    def _turns(self, document: int, start: int, stop: int) -> Iterator[Turn]:
        tokens, table = self.tokens, self.tokens.table
        for turn in np.flatnonzero((tokens.turn_document == document) & (tokens.turn_start < stop)).tolist():
            at = int(tokens.turn_at[turn])
            begin, end = int(tokens.turn_start[turn]) - start, int(tokens.turn_stop[turn]) - start
            message, dropped = int(table.turn_message[at]), bool(table.turn_dropped[at])
            yield Turn(message, begin, end, bool(table.turn_served[at]), dropped)


def nothing_written(left: Layouts, difference: EngineDifference | None = None) -> SheetTokens:
    none = np.zeros(0, np.int64)
    tokens = DocumentTokens(
        SheetTable([]),
        none.astype(np.int32),
        none.astype(np.uint8),
        np.zeros(1, np.int64),
        none,
        none,
        none,
        none,
        none,
    )
    kept = Kept(none, none, none, none, none.astype(np.bool_), [], none)
    return SheetTokens(tokens, kept, none, left, difference=difference)
