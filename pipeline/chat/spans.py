"""Training on parts of a message: which tokens its spans keep out of the loss."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.chat.regions import RowSpan
from pipeline.chat.template import OUTSIDE_SPANS
from pipeline.chat.traced import Field
from pipeline.encoders.base import Encoded


def outside_spans(encoded: Encoded, rows: Sequence[RowSpan], size: int) -> npt.NDArray[np.bool_]:
    """bool[n]: the tokens that hold a character of content outside the spans of its message. `rows` are those of a
    rendering of `size` characters."""
    outside = np.zeros(size + 1, np.int32)
    for start, end, origin in rows:
        if origin.field == Field.BODY and origin.part == OUTSIDE_SPANS:
            outside[start + 1 : end + 1] = 1
    before = np.cumsum(outside)  # such characters before each place
    return before[encoded.ends] > before[encoded.starts]
