"""gigatoken: encodes byte pairs many times as fast as the reference libraries, since it remembers the words it met."""

import base64
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise

import awkward
import numpy as np
import numpy.typing as npt
import psutil
from gigatoken.gigatoken_rs import BPETokenizer, load_hf_json

from pipeline.encoders.base import Encoder, EncodingFailed
from pipeline.encoders.batch import EncodedBatch, EngineMissing, Strings
from pipeline.encoders.byte_level import byte_level_json
from pipeline.encoders.byte_pairs import BytePairEncoder
from pipeline.encoders.huggingface import HuggingFaceEncoder
from pipeline.encoders.presets import PRESETS

SLICE_BYTES = 16 * 2**20
"""So much text goes in at once; after each slice the memory is looked at."""
CACHE_BYTES = 224 * 2**20
"""Where encoding has taken more memory than this, the encoder is built anew. Words that never repeat take it every
40 MB, and twice as much for a moment, since the table of words doubles; source code takes a sixth of it in 400 MB."""

_SCHEMES = {PRESETS["qwen2.5"].pattern: "qwen2"}
"""Patterns whose rank files gigatoken opens by itself, in a fifth of the time that a tokenizer.json takes. It panics
where a token is not made of two others, as some of Llama 3's are."""

Backend = BPETokenizer


class GigatokenBatches:
    """The encoder is built at the first text: that takes some tenths of a second. No token is special to it."""

    name = "gigatoken"

    def __init__(self, build: Callable[[], Backend], sizes: npt.NDArray[np.int64], first_id: int = 0) -> None:
        self.sizes = sizes
        self._build = build
        self._first_id = first_id
        self._backend: Backend | None = None
        self._grown = 0
        self._lock = threading.Lock()  # a worker's threads may encode at once

    def encode(self, texts: Strings) -> EncodedBatch:
        with self._lock:
            parts = [self._encode(part) for part in _slices(texts)]
        if len(parts) == 1:
            return parts[0]
        ids = np.concatenate([np.zeros(0, np.int32), *(part.ids for part in parts)])
        lengths = np.concatenate([np.zeros(1, np.int64), *(np.diff(part.offsets) for part in parts)])
        return EncodedBatch(ids, np.cumsum(lengths))

    def _encode(self, texts: Strings) -> EncodedBatch:
        if self._backend is None:
            self._backend, self._grown = self._build(), 0
        before = _resident()
        encoded = _call(self._backend, texts)
        self._grown += max(0, _resident() - before - encoded.ids.nbytes)
        if self._grown > CACHE_BYTES:
            self._backend = None
        if self._first_id:
            encoded.ids[:] += np.int32(self._first_id)
        return encoded


def make_engine(encoder: Encoder) -> GigatokenBatches:
    """Raises EngineMissing where gigatoken does not know such a tokenizer, or its pattern."""
    if isinstance(encoder, BytePairEncoder):
        ranks, pattern = encoder.ranks, encoder.pattern
        return GigatokenBatches(lambda: _load_ranks(ranks, pattern), encoder.batch().sizes, encoder.first_id)
    if isinstance(encoder, HuggingFaceEncoder) and encoder.is_byte_level:
        return GigatokenBatches(lambda: _load_json(encoder.plain_json()), encoder.sizes)
    raise EngineMissing("gigatoken is for byte-level byte-pair tokenizers, and this is another kind")


def _load_ranks(ranks: Mapping[bytes, int], pattern: str) -> Backend:
    scheme = _SCHEMES.get(pattern)
    if scheme is None:
        return _load_json(byte_level_json(ranks, pattern))
    with tempfile.NamedTemporaryFile(suffix=".tiktoken") as file:
        file.writelines(b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in ranks.items())
        file.flush()
        return BPETokenizer.from_tiktoken(file.name, scheme, None)


def _load_json(tokenizer_json: bytes) -> Backend:
    try:
        backend = load_hf_json(tokenizer_json)
    except RuntimeError as error:
        raise EngineMissing(f"gigatoken does not take this tokenizer: {str(error).splitlines()[0]}") from error
    if not isinstance(backend, BPETokenizer):
        raise EngineMissing("gigatoken takes this tokenizer for one of sentencepiece's")
    return backend


def _call(backend: Backend, texts: Strings) -> EncodedBatch:
    """Without a copy of the texts, on this thread. gigatoken's panics are no Exceptions."""
    content = awkward.contents.NumpyArray(texts.data, parameters={"__array__": "char"})
    offsets = awkward.index.Index64(texts.offsets)
    array = awkward.Array(awkward.contents.ListOffsetArray(offsets, content, parameters={"__array__": "string"}))
    try:
        layout = backend.encode_batch(array, parallel=False).layout
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise EncodingFailed(f"gigatoken gave up on {len(texts)} texts: {error}") from error
        raise
    return EncodedBatch(np.asarray(layout.content.data).view(np.int32), np.asarray(layout.offsets.data))


def _slices(texts: Strings) -> Iterator[Strings]:
    """Whole texts, up to SLICE_BYTES of them and one more."""
    first, end = int(texts.offsets[0]), int(texts.offsets[-1])
    cuts = np.searchsorted(texts.offsets, np.arange(first, end, SLICE_BYTES))
    for start, stop in pairwise(np.unique([0, *cuts.tolist(), len(texts)]).tolist()):
        yield Strings(texts.data, texts.offsets[start : stop + 1])


def _resident() -> int:
    """Bytes of this process that are in memory."""
    return int(psutil.Process().memory_info().rss)
