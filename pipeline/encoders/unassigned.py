"""Texts with characters that the Unicode tables of two libraries may hold for different things.

A pattern's letters, digits and marks are those of the library's Unicode version. Characters that Unicode 14 has are the
same for all of them; what came later is a letter to one library and unassigned to another.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.encoders.batch import Strings

_BORDERS = Path(__file__).with_name("unicode_14.json")
"""Where assigned code points begin and where they end, in turns."""

_LEADS = ((0xC0, 0xDF), (0xE0, 0xEF), (0xF0, 0xF7))
"""The first bytes of sequences of two, three and four bytes."""


@cache
def assigned() -> npt.NDArray[np.bool_]:
    """bool[0x110000]: whether Unicode 14.0 has a code point."""
    borders = np.array([*json.loads(_BORDERS.read_bytes()), 0x110000])
    lengths = np.diff(borders, prepend=0)
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)


@cache
def _whole() -> npt.NDArray[np.bool_]:
    """bool[0x4400]: whether Unicode 14.0 has all of 64 code points that differ in their last byte alone."""
    whole: npt.NDArray[np.bool_] = np.logical_and.reduce(assigned().reshape(-1, 64), axis=1)
    return whole


def find_unassigned(texts: Strings) -> npt.NDArray[np.int64]:
    """int64[k]: which texts hold a character that Unicode 14.0 has not, in order."""
    first, end = int(texts.offsets[0]), int(texts.offsets[-1])
    data = texts.data[first:end]
    leads = np.flatnonzero(data >= 0xC0)
    places = [np.zeros(0, np.int64)]
    for more, (low, high) in enumerate(_LEADS, start=1):
        starts = leads[(data[leads] >= low) & (data[leads] <= high)]
        codes = data[starts].astype(np.int32) - low
        for byte in range(1, more):
            codes = codes << 6 | data[starts + byte] & 0x3F
        partly = ~_whole()[codes]
        starts = starts[partly]
        places.append(starts[~assigned()[codes[partly] << 6 | data[starts + more] & 0x3F]])
    found = np.searchsorted(texts.offsets, first + np.concatenate(places), side="right") - 1
    return np.unique(found)
