"""Arrow arrays from buffers. `pa.array` looks for pandas in what it is given, and imports it for that."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def string_array(texts: Sequence[str]) -> pa.LargeStringArray:
    """Raises UnicodeEncodeError for a lone surrogate."""
    data = "".join(texts).encode()
    offsets = np.zeros(len(texts) + 1, np.int64)
    offsets[1:] = list(map(len, texts))
    np.cumsum(offsets, out=offsets)
    if offsets[-1] != len(data):
        offsets[1:] = [len(text) if text.isascii() else len(text.encode()) for text in texts]
        np.cumsum(offsets, out=offsets)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.large_string(), len(texts), buffers)


def index_array(indices: npt.NDArray[np.int64]) -> pa.Int64Array:
    return pa.Array.from_buffers(pa.int64(), len(indices), [None, pa.py_buffer(np.ascontiguousarray(indices))])
