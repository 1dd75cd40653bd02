"""Many plain texts to ids at once, in flat arrays."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt


class EngineMissing(Exception):
    """A library that encodes batches does not know a tokenizer, or is not installed. The message says which."""


@dataclass(frozen=True, slots=True)
class Strings:
    """UTF-8 texts end to end: text i is data[offsets[i]:offsets[i + 1]]. data uint8[bytes], offsets int64[n + 1]."""

    data: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Strings":
        """Raises UnicodeEncodeError for a lone surrogate."""
        encoded = [text.encode() for text in texts]
        offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[str]:
        data = self.data.tobytes()
        return (data[start:end].decode() for start, end in pairwise(self.offsets.tolist()))

    def take(self, indexes: npt.NDArray[np.int64]) -> "Strings":
        """Some of the texts, copied."""
        starts, ends = self.offsets[indexes].tolist(), self.offsets[indexes + 1].tolist()
        data = [self.data[start:end] for start, end in zip(starts, ends, strict=True)]
        offsets = np.cumsum([0, *map(len, data)], dtype=np.int64)
        return Strings(np.concatenate([np.zeros(0, np.uint8), *data]), offsets)


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    """The ids of text i are ids[offsets[i]:offsets[i + 1]]. ids int32[T], offsets int64[n + 1]."""

    ids: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]


class BatchEncoder(Protocol):
    """Plain texts to ids, each text by itself. `name` is the library that does the work; `sizes` int64[vocab] has the
    bytes of each id, 0 for added tokens."""

    name: str
    sizes: npt.NDArray[np.int64]

    def encode(self, texts: Strings) -> EncodedBatch:
        """Texts in the encoder's normal form, without an added token that would have to come out: none does. Raises
        EncodingFailed."""


def join_ids(pieces: Iterable[npt.ArrayLike]) -> EncodedBatch:
    """One array of ids for each text, put end to end."""
    arrays = [np.asarray(piece, np.int32) for piece in pieces]
    ids = np.concatenate(arrays) if arrays else np.zeros(0, np.int32)
    return EncodedBatch(ids, np.cumsum([0, *map(len, arrays)], dtype=np.int64))
