"""Which library encodes the blocks: a fast one that is shown to give the reference's ids, or the reference itself."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pipeline.config import EngineSetting
from pipeline.encoders.base import Encoder, EncodingFailed
from pipeline.encoders.batch import BatchEncoder, EncodedBatch, EngineMissing, Strings
from pipeline.encoders.compare import compare_ids
from pipeline.encoders.hard_texts import hard_texts
from pipeline.encoders.unassigned import find_unassigned
from schemas.errors import ConfigError


def _gigatoken(encoder: Encoder) -> BatchEncoder:
    try:
        from pipeline.encoders.gigatoken_engine import make_engine
    except ImportError as error:
        raise EngineMissing(f"gigatoken cannot be used ({error}); try: pip install 'packline[fast]'") from error
    return make_engine(encoder)


FAST_ENGINES: dict[str, Callable[[Encoder], BatchEncoder]] = {"gigatoken": _gigatoken}
"""By the name of the library. Each raises EngineMissing, at the first text at the latest."""


@dataclass(frozen=True)
class EngineChoice:
    """`name` is the library that encodes the blocks; `reason` why it is no fast one, of which the warnings are what a
    user should know. `certified` is the fast one, with what it has loaded."""

    name: str
    reason: str = ""
    warnings: tuple[str, ...] = ()
    certified: BatchEncoder | None = field(default=None, repr=False, compare=False)


def choose_engine(setting: EngineSetting, encoder: Encoder) -> EngineChoice:
    """Certifies a fast engine before it is chosen. Raises ConfigError where `fast` asks for one that cannot be used."""
    reference = encoder.libraries[0]
    if setting == "reference":
        return EngineChoice(reference, "engine: reference")
    batch = encoder.batch()
    if batch is None:
        choice = EngineChoice(reference, "no fast engine is for this kind of tokenizer")
    else:
        choice = _try_engines(encoder, batch)
    if setting == "fast" and choice.certified is None:
        raise ConfigError(
            f"engine: fast: {choice.reason}. With engine: auto the reference, {reference}, encodes instead"
        )
    return choice


def _try_engines(encoder: Encoder, reference: BatchEncoder) -> EngineChoice:
    missing, different = [], []
    for name in FAST_ENGINES:
        try:
            fast = _make_fast(name, encoder)
            difference = _what_differs(fast, reference, encoder)
        except EngineMissing as error:
            missing.append(str(error))
            continue
        if not difference:
            return EngineChoice(name, certified=fast)
        different.append(difference)
    return EngineChoice(reference.name, "; ".join([*different, *missing]), tuple(different))


def make_batch_encoder(name: str, encoder: Encoder) -> BatchEncoder | None:
    """The chosen engine, not certified again. Raises EngineMissing on a machine that lacks its library."""
    return _make_fast(name, encoder) if name in FAST_ENGINES else encoder.batch()


def _make_fast(name: str, encoder: Encoder) -> "FastBatches":
    return FastBatches(FAST_ENGINES[name](encoder), encoder.batch)


def _what_differs(fast: "FastBatches", reference: BatchEncoder, encoder: Encoder) -> str:
    """Empty where a fast engine gives the reference's ids for all the hard texts. Raises EngineMissing."""
    texts = Strings.of(hard_texts([token.content for token in encoder.added_tokens], encoder.normal_form))
    places = [(0, index) for index in range(len(texts))]
    try:
        found = fast.encode(texts)
    except EncodingFailed as error:
        return f"{fast.name} fails on texts that {reference.name} encodes: {error}"
    difference = compare_ids(texts, places, found, reference)
    return f"{fast.name} differs from {reference.name} on {difference}" if difference else ""


class FastBatches:
    """A fast engine, and the reference for texts with characters of which the two may not know the same."""

    def __init__(self, fast: BatchEncoder, make_reference: Callable[[], BatchEncoder | None]) -> None:
        self.name = fast.name
        self.sizes = fast.sizes
        self._fast = fast
        self._make_reference = make_reference

    @cached_property
    def _reference(self) -> BatchEncoder:
        reference = self._make_reference()
        assert reference is not None
        return reference

    def encode(self, texts: Strings) -> EncodedBatch:
        encoded = self._fast.encode(texts)
        doubtful = find_unassigned(texts)
        return _replace(encoded, doubtful, self._reference.encode(texts.take(doubtful))) if len(doubtful) else encoded


def _replace(batch: EncodedBatch, places: npt.NDArray[np.int64], others: EncodedBatch) -> EncodedBatch:
    """`others` are the ids of the texts at `places`."""
    kept = np.split(batch.ids, batch.offsets[np.stack([places, places + 1], axis=1).reshape(-1)])[::2]
    given = np.split(others.ids, others.offsets[1:-1])
    lengths = np.diff(batch.offsets)
    lengths[places] = np.diff(others.offsets)
    mixed = [piece for pair in zip(kept, [*given, others.ids[:0]], strict=True) for piece in pair]
    return EncodedBatch(np.concatenate(mixed), np.cumsum([0, *lengths.tolist()], dtype=np.int64))
