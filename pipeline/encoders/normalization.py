"""Unicode normalization that keeps track of where each character came from."""

import unicodedata
from functools import lru_cache
from itertools import chain, pairwise

import numpy as np
import numpy.typing as npt


def nfc_with_origins(text: str) -> tuple[str, npt.NDArray[np.int32]]:
    """The NFC of `text`, and for each of its characters the index in `text` where it begins.

    Composition never crosses a character that starts anew: one of combining class 0 that is no second half of a
    composition (Unicode Standard Annex 15). The text is normalized between such characters.
    """
    bound = [0, *(i for i in range(1, len(text)) if _starts_anew(text[i])), len(text)]
    pieces, origins = [], []
    for start, end in pairwise(bound):
        piece = unicodedata.normalize("NFC", text[start:end])
        pieces.append(piece)
        origins += [start] * len(piece)
    return "".join(pieces), np.array(origins, np.int32)


def _starts_anew(char: str) -> bool:
    first = unicodedata.normalize("NFD", char)[0]
    return char < "\u0300" or (unicodedata.combining(first) == 0 and first not in _second_halves())


_BLOCKS = range(0x900, 0x1200), range(0x1B00, 0x1C00), range(0x11000, 0x12000), range(0x16000, 0x17000)
"""Where Unicode has pairs whose second half is no combining mark by its class: the scripts of South and South East Asia
and Hangul. To look at all characters takes half a second."""


@lru_cache(maxsize=1)
def _second_halves() -> frozenset[str]:
    """Characters of class 0 that may compose with the one before; Hangul vowels and tails among them."""
    halves = {chr(code) for code in (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))}
    for code in chain.from_iterable(_BLOCKS):
        fields = unicodedata.decomposition(chr(code)).split()
        if len(fields) == 2 and not fields[0].startswith("<"):
            halves.add(chr(int(fields[1], 16)))
    return frozenset(halves)
