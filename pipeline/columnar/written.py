"""Documents written from their sheets: one joined buffer of UTF-8, and the atoms that it is made of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.columnar.sheet import Change, Sheet, SheetTable

_MAY_BE_SPACE = [byte in (*range(0x09, 0x0E), *range(0x1C, 0x21)) or byte > 127 for byte in range(256)]
"""Bytes at the border of a text that may belong to white space."""


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
    texts: Sequence[bytes],
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
    pool = [*table.constants, *texts]
    for change, members in table.changes.items():
        _apply(change, pool, source, np.flatnonzero(members[at]))
    lengths = np.fromiter(map(len, pool), np.int64, len(pool))
    starts = np.concatenate([[0], np.cumsum(lengths[source])])
    data = b"".join(map(pool.__getitem__, source.tolist()))
    begins = table.token[at] < 0
    begins[1:] &= table.token[at[:-1]] >= 0
    begins[first[:-1]] = table.token[at[first[:-1]]] < 0
    return Written(table, np.frombuffer(data, np.uint8), starts, at, first, sheet, np.flatnonzero(begins))


def _apply(change: Change, pool: list[bytes], source: npt.NDArray[np.int64], atoms: npt.NDArray[np.int64]) -> None:
    """Point these atoms at their texts as they are after the change, which are added to the pool. A change takes white
    space off the ends, so that a text which begins and ends in something else is left alone."""
    texts = [pool[index] for index in source[atoms].tolist()]
    places = [n for n, text in enumerate(texts) if not text or _MAY_BE_SPACE[text[0]] or _MAY_BE_SPACE[text[-1]]]
    source[atoms[places]] = np.arange(len(pool), len(pool) + len(places))
    pool += [change(texts[place].decode()).encode() for place in places]
