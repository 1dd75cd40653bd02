"""The documents of a block that are written from sheets: which they are, and what becomes of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.chat.replay.tree import MOST_WRITTEN
from pipeline.columnar.sheet import Sheet
from pipeline.columnar.suspects import TokenScanner, find_unnormalized
from pipeline.columnar.tokens import DocumentTokens, encode_documents
from pipeline.columnar.written import Written, write_documents
from pipeline.convert.plain import PlainRows
from pipeline.encoders.base import NAME_BEGIN, Encoder
from pipeline.encoders.batch import BatchEncoder

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Assigned:
    """D documents with their sheets, in order. `row` is the place of each one's row in the block; `first` is where in
    the block's plain texts those of the row begin. `is_text`: a plain text, no conversation."""

    sheets: Sequence[Sheet]
    sheet: Indices
    row: Indices
    first: Indices
    is_text: npt.NDArray[np.bool_]


class SheetEncoder:
    """Writes and encodes. `reference` is the encoder whose ids `batch` gives for stretches of plain text; `literal`:
    control tokens in a row's text are plain text, too."""

    def __init__(self, reference: Encoder, batch: BatchEncoder, *, literal: bool) -> None:
        self.batch = batch
        self._form = reference.normal_form
        tokens = [token.content for token in reference.added_tokens if not (literal and token.special)]
        self._scanner = TokenScanner([*tokens, NAME_BEGIN])

    def encode(self, assigned: Assigned, rows: PlainRows) -> tuple[DocumentTokens, Indices]:
        """The tokens of the documents, and the rows that sheets cannot write: an added token in their text, a text that
        is empty or not in the normal form, more than a template may be sure to write. Raises EncodingFailed and
        BytesDiffer."""
        written = write_documents(assigned.sheets, assigned.sheet, assigned.first, rows.texts)
        is_long = (np.diff(written.starts[written.first]) > MOST_WRITTEN) & ~assigned.is_text
        doubtful = np.append(self._doubtful(written), np.flatnonzero(is_long))
        return encode_documents(written, self.batch), np.unique(assigned.row[doubtful])

    def _doubtful(self, written: Written) -> Indices:
        """Documents."""
        is_text = written.table.text[written.at] >= 0
        empty = np.flatnonzero(is_text & (written.starts[:-1] == written.starts[1:]))
        tokens = np.searchsorted(written.starts, self._scanner.find(written.data) + written.starts[0], "right") - 1
        avoids = written.table.avoids[written.at]
        begins = written.data[np.minimum(written.starts[:-1], len(written.data) - 1)] if len(written.data) else avoids
        avoided = np.flatnonzero((avoids >= 0) & (avoids == begins))
        other = written.segments[find_unnormalized(written.data, written.segment_starts, self._form)]
        return written.documents_of(np.concatenate([empty, avoided, tokens, other]))
