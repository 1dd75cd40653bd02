"""Texts that may not be encoded stretch by stretch: those that hold an added token, or are not in the normal form."""

import unicodedata
from collections.abc import Collection
from typing import Literal

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]


class TokenScanner:
    """Finds any of some tokens in a buffer of UTF-8."""

    def __init__(self, contents: Collection[str]) -> None:
        self._contents = tuple(content.encode() for content in contents)
        self._firsts = sorted({content[0] for content in self._contents})
        self._pairs = np.zeros((256, 256), np.bool_)  # by first and second byte
        for content in self._contents:
            self._pairs[content[0], content[1] if len(content) > 1 else slice(None)] = True
        self._longest = max(map(len, self._contents), default=0)

    def find(self, data: Bytes) -> Places:
        """int64: where a token begins."""
        found = [self._candidates(data, first) for first in self._firsts]
        places = np.concatenate([np.zeros(0, np.int64), *found])
        whole = memoryview(data)  # type: ignore[arg-type]
        is_token = [whole[at : at + self._longest].tobytes().startswith(self._contents) for at in places.tolist()]
        tokens: Places = places[np.array(is_token, np.bool_)]
        return tokens

    def _candidates(self, data: Bytes, first: int) -> Places:
        at = np.flatnonzero(data == first)
        second = data[np.minimum(at + 1, len(data) - 1)]
        candidates: Places = at[self._pairs[first, second] | (at == len(data) - 1)]
        return candidates


def find_unnormalized(data: Bytes, starts: Places, form: Literal["NFC"] | None) -> Places:
    """int64: which of the texts data[starts[i]:starts[i + 1]] are not in the normal form."""
    if form is None or not len(data) or int(data.max()) < 128:
        return np.zeros(0, np.int64)
    filled = np.flatnonzero(starts[:-1] < starts[1:])
    high = filled[np.bitwise_or.reduceat(data, starts[:-1][filled]) > 127]
    texts = (data[starts[i] : starts[i + 1]].tobytes().decode() for i in high.tolist())
    return high[np.array([not unicodedata.is_normalized(form, text) for text in texts], np.bool_)]
