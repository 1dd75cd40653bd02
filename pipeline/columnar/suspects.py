"""Texts that may not be encoded stretch by stretch: those that hold an added token, or are not in the normal form."""

import re
import unicodedata
from collections.abc import Collection, Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]


class TokenScanner:
    """Finds any of some tokens in a buffer of UTF-8."""

    def __init__(self, contents: Collection[str]) -> None:
        """One pattern for each first byte, as a search for a single byte is many times as fast as one for several."""
        longest_first = sorted((content.encode() for content in contents), key=len, reverse=True)
        groups = {content[0]: [c for c in longest_first if c[0] == content[0]] for content in longest_first}
        choices = (b"|".join(map(re.escape, group)) for group in groups.values())
        self._patterns = [re.compile(choice) for choice in choices]

    def find(self, data: Bytes) -> Places:
        """int64: where a token begins, also inside of another one."""
        return np.array([at for pattern in self._patterns for at in _find(pattern, data)], np.int64)


def _find(pattern: re.Pattern[bytes], data: Bytes) -> Iterator[int]:
    buffer = data.data
    found = pattern.search(buffer)
    while found:
        yield found.start()
        found = pattern.search(buffer, found.start() + 1)


def find_unnormalized(data: Bytes, starts: Places, form: Literal["NFC"] | None) -> Places:
    """int64: which of the texts data[starts[i]:starts[i + 1]] are not in the normal form."""
    if form is None or not len(data) or int(data.max()) < 128:
        return np.zeros(0, np.int64)
    filled = np.flatnonzero(starts[:-1] < starts[1:])
    high = filled[np.bitwise_or.reduceat(data, starts[:-1][filled]) > 127]
    texts = (data[starts[i] : starts[i + 1]].tobytes().decode() for i in high.tolist())
    return high[np.array([not unicodedata.is_normalized(form, text) for text in texts], np.bool_)]
