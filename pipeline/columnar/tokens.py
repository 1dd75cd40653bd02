"""From written documents to ids and channels, without touching a token in Python."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.columnar.sheet import SheetTable
from pipeline.columnar.written import Written
from pipeline.encoders.batch import BatchEncoder, EncodedBatch, Strings
from schemas.channels import NO_LOSS

MOST_STEPS = 8
"""Tokens of a header; longer ones are looked for by bisection."""


@dataclass(frozen=True, slots=True)
class DocumentTokens:
    """D documents of T tokens in all; document d holds tokens [offsets[d], offsets[d + 1]). U turns in order, each with
    its document and its tokens [start, stop), counted from the first of all. `table` has the documents' sheets."""

    table: SheetTable
    input_ids: npt.NDArray[np.int32]  # [T]
    channel: npt.NDArray[np.uint8]  # [T]
    offsets: npt.NDArray[np.int64]  # [D + 1]
    straddling: npt.NDArray[np.int64]  # [D]: tokens that begin in a header and end in a generated region
    turn_document: npt.NDArray[np.int64]  # [U]
    turn_start: npt.NDArray[np.int64]  # [U]
    turn_stop: npt.NDArray[np.int64]  # [U]
    turn_at: npt.NDArray[np.int64]  # [U]: the turn's place in the table of sheets

    def __len__(self) -> int:
        return len(self.offsets) - 1


class BytesDiffer(Exception):
    """The ids of a text do not have its bytes. `document` is the first with such a text."""

    def __init__(self, document: int) -> None:
        super().__init__(f"document {document}")
        self.document = document


def encode_documents(written: Written, encoder: BatchEncoder) -> DocumentTokens:
    """Raises EncodingFailed and BytesDiffer."""
    table, at = written.table, written.at
    token = table.token[at]
    is_text = token < 0
    encoded, ends = _encode_segments(written, encoder)
    text_atoms = np.flatnonzero(is_text)
    spans = _Spans(written, text_atoms, _first_tokens(written, text_atoms, encoded.offsets, ends), ends)
    counts = np.ones(len(at), np.int64)
    counts[text_atoms] = spans.counts
    token_starts = np.concatenate([[0], np.cumsum(counts)])
    fixed = token_starts[:-1][~is_text]
    input_ids = np.empty(token_starts[-1], np.int32)
    is_encoded = np.ones(len(input_ids), np.bool_)
    is_encoded[fixed] = False
    input_ids[is_encoded] = encoded.ids
    input_ids[fixed] = token[~is_text]
    channel = np.repeat(table.channel[at], counts)
    crossing = spans.crossing_tokens()
    owners = text_atoms[crossing.owner]
    places = crossing.token + owners - crossing.owner  # the added tokens before it come between
    channel[places] = table.channel[at[text_atoms[crossing.decisive]]]
    offsets = token_starts[written.first]
    channel[offsets[:-1]] |= np.uint8(NO_LOSS)
    documents = written.documents_of(owners[crossing.straddles])
    return DocumentTokens(
        table,
        input_ids,
        channel,
        offsets,
        np.bincount(documents, minlength=len(offsets) - 1),
        *_turns(written, token_starts),
    )


def _encode_segments(written: Written, encoder: BatchEncoder) -> tuple[EncodedBatch, npt.NDArray[np.signedinteger]]:
    """The ids, and the byte of the written data at which each ends."""
    offsets = written.segment_starts
    encoded = encoder.encode(Strings(written.data, offsets))
    width = np.int32 if offsets[-1] < 2**31 else np.int64  # less memory to go through
    sizes = encoder.sizes.astype(np.uint8 if encoder.sizes.max() < 256 else width)
    ends: npt.NDArray[np.signedinteger] = np.cumsum(sizes[encoded.ids], dtype=width)
    np.add(ends, offsets[0], out=ends, casting="same_kind")
    last = encoded.offsets[1:] - 1
    wrong = np.flatnonzero(np.where(last < 0, offsets[0], ends[last]) != offsets[1:])
    if len(wrong):
        raise BytesDiffer(int(written.documents_of(written.segments[wrong[:1]])[0]))
    return encoded, ends


def _first_tokens(
    written: Written, atoms: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64], ends: npt.NDArray[np.signedinteger]
) -> npt.NDArray[np.int64]:
    """int64: for each text atom the first encoded token that begins in it or later. `offsets` are the segments' tokens.

    The first atom of a segment begins with a token. The others mostly follow a header of few tokens, so they are looked
    for step by step from there.
    """
    segment = np.searchsorted(written.segments, atoms, side="right") - 1
    first = offsets[segment]
    starts = written.starts[:-1][atoms]
    waiting = np.flatnonzero(starts > written.starts[written.segments[segment]])
    for _ in range(MOST_STEPS):
        first[waiting] += 1  # each token begins where the one before ends
        waiting = waiting[ends[first[waiting] - 1] < starts[waiting]]
    if len(waiting):
        places = starts[waiting].astype(ends.dtype)  # searchsorted would widen the longer array
        first[waiting] = np.searchsorted(ends, places) + 1
    return first


@dataclass(frozen=True, slots=True)
class _Crossing:
    """Encoded tokens that begin in one atom and end in another: where they begin (`owner`), and the atom that says what
    they are (`decisive`), among the text atoms."""

    token: npt.NDArray[np.int64]
    owner: npt.NDArray[np.int64]
    decisive: npt.NDArray[np.int64]
    straddles: npt.NDArray[np.bool_]


class _Spans:
    """The bytes of tokens against those of the text atoms. `counts`: how many tokens begin in each of these."""

    def __init__(
        self,
        written: Written,
        atoms: npt.NDArray[np.int64],
        first: npt.NDArray[np.int64],
        ends: npt.NDArray[np.signedinteger],
    ) -> None:
        self._ends = ends
        self._first = first
        self._starts = written.starts[:-1][atoms]
        self._stops = written.starts[1:][atoms]
        self._region = written.table.region[written.at[atoms]]
        self._is_row = written.table.is_row[written.at[atoms]]
        self.counts = np.diff(np.append(self._first, len(ends)))

    def crossing_tokens(self) -> _Crossing:
        later = self._first > 0
        before = self._first[later] - 1
        token = np.unique(before[self._ends[before] > self._starts[later]])
        owner = np.searchsorted(self._first, token, side="right") - 1
        stop = self._ends[token]
        row = self._next_row_atoms()[owner]
        there = np.minimum(row, len(self._starts) - 1)
        holds_text = (row < len(self._starts)) & (self._starts[there] < stop)
        holds_text &= self._region[there] == self._region[owner]
        last = np.searchsorted(self._starts, stop - 1, side="right") - 1
        straddles = (self._region[last] >= 0) & (self._region[last] != self._region[owner])
        return _Crossing(token, owner, np.where(holds_text, there, owner), straddles)

    def _next_row_atoms(self) -> npt.NDArray[np.int64]:
        """int64: for each text atom the first at or after it that holds characters of the row."""
        count = len(self._starts)
        places = np.where(self._is_row & (self._stops > self._starts), np.arange(count), count)
        return np.minimum.accumulate(places[::-1])[::-1]


def _turns(written: Written, token_starts: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], ...]:
    """Regions without a token are left out: the tokens that hold their text begin before them."""
    region = written.table.region[written.at]
    document = np.repeat(np.arange(len(written.sheet)), np.diff(written.first))
    key = document * (int(region.max(initial=0)) + 2) + region
    change = np.flatnonzero(np.diff(key, prepend=-2, append=-2))
    first, after = change[:-1], change[1:]
    inside = region[first] >= 0
    first, after = first[inside], after[inside]
    start, stop = token_starts[first], token_starts[after]
    has_tokens = start < stop
    first = first[has_tokens]
    turn_at = written.table.first_turn[written.sheet[document[first]]] + region[first]
    return document[first], start[has_tokens], stop[has_tokens], turn_at
