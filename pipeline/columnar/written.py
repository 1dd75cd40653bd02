"""Documents written from their sheets: one joined buffer of UTF-8, and the atoms that it is made of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.arrow_arrays import index_array, string_array
from pipeline.columnar.sheet import Change, Sheet, SheetTable

_ASCII_SPACE = np.isin(np.arange(256), [*range(0x09, 0x0E), *range(0x1C, 0x21)]) | (np.arange(256) > 127)
"""bool[256]: bytes at the border of a text that may belong to white space."""


@dataclass(frozen=True, slots=True)
class Written:
    """D documents, A atoms, G segments. Document d has the atoms [first[d], first[d + 1]). `at` is each atom's place in
    the table; atom a holds the bytes data[starts[a]:starts[a + 1]], none where it is an added token. Segment g begins
    with the atom segments[g]; it goes to the next added token, or to the end of the document."""

    table: SheetTable
    data: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]  # [A + 1]
    at: npt.NDArray[np.int64]  # [A]
    first: npt.NDArray[np.int64]  # [D + 1]
    sheet: npt.NDArray[np.int64]  # [D]
    segments: npt.NDArray[np.int64]  # [G]

    @property
    def segment_starts(self) -> npt.NDArray[np.int64]:
        """int64[G + 1]"""
        return np.append(self.starts[self.segments], self.starts[-1])

    def documents_of(self, atoms: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The document that each of these atoms is in."""
        return np.searchsorted(self.first, atoms, side="right") - 1


def write_documents(
    sheets: Sequence[Sheet],
    sheet: npt.NDArray[np.int64],
    first_text: npt.NDArray[np.int64],
    texts: pa.LargeStringArray,
) -> Written:
    """`sheet` has the sheet of each document, `first_text` where in `texts` those of its row begin."""
    table = SheetTable(sheets)
    sizes = np.diff(table.first)[sheet]
    first = np.concatenate([[0], np.cumsum(sizes)])
    at = np.arange(first[-1]) + np.repeat(table.first[sheet] - first[:-1], sizes)
    source = table.constant[at]
    number = table.text[at]
    is_text = number >= 0
    source[is_text] = len(table.constants) + (np.repeat(first_text, sizes) + number)[is_text]
    pool = [string_array(table.constants), texts]
    end = len(table.constants) + len(texts)
    for change, members in table.changes.items():
        places = np.flatnonzero(members[at])
        changed, strings = _change(change, texts, source[places] - len(table.constants))
        source[places[changed]] = end + np.arange(len(strings))
        pool.append(strings)
        end += len(strings)
    joined = pa.concat_arrays(pool).take(index_array(source))
    _, offsets, data = joined.buffers()
    starts = np.frombuffer(offsets, np.int64)[joined.offset : joined.offset + len(joined) + 1]
    begins = table.token[at] < 0
    begins[1:] &= table.token[at[:-1]] >= 0
    begins[first[:-1]] = table.token[at[first[:-1]]] < 0
    return Written(table, np.frombuffer(data or b"", np.uint8), starts, at, first, sheet, np.flatnonzero(begins))


def _change(
    change: Change, texts: pa.LargeStringArray, indices: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], pa.LargeStringArray]:
    """Which of texts[indices] may not stay as they are, and what becomes of those. A change takes white space off the
    ends, so that a text which begins and ends in something else is left alone."""
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, np.int64)[texts.offset :]
    held = np.frombuffer(data, np.uint8)
    starts, stops = ends[indices], ends[indices + 1]
    candidates = np.flatnonzero((starts == stops) | _ASCII_SPACE[held[starts]] | _ASCII_SPACE[held[stops - 1]])
    strings = texts.take(index_array(indices[candidates])).to_pylist()
    return candidates, string_array([change(text) for text in strings])
