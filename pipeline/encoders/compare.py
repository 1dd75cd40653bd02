"""What two engines make of the same texts."""

from collections.abc import Sequence

import numpy as np

from pipeline.encoders.batch import BatchEncoder, EncodedBatch, Strings
from schemas.manifest import Count, Record, TokenId

SHOWN_IDS = 8
SHOWN_BYTES = 100
SHOWN_CHARACTERS = 200


class EngineDifference(Record):
    """A text of which the fast engine made other ids than the reference. `text` is the `repr` of what stands around the
    place where they part, the ids are those around it."""

    source: Count
    position: Count
    text: str
    expected_ids: tuple[TokenId, ...]
    found_ids: tuple[TokenId, ...]

    def __str__(self) -> str:
        return f"{self.text}: expected the ids {list(self.expected_ids)}, found {list(self.found_ids)}"


def compare_ids(
    texts: Strings, places: Sequence[tuple[int, int]], found: EncodedBatch, reference: BatchEncoder
) -> EngineDifference | None:
    """The first text whose ids in `found` are not the reference's. `places` are source and position of each text.
    Raises EncodingFailed where the reference does."""
    expected = reference.encode(texts)
    if np.array_equal(found.offsets, expected.offsets) and np.array_equal(found.ids, expected.ids):
        return None
    for index, (text, (source, position)) in enumerate(zip(texts, places, strict=True)):
        wanted, given = (
            batch.ids[batch.offsets[index] : batch.offsets[index + 1]].tolist() for batch in (expected, found)
        )
        if wanted != given:
            same = next((i for i, (a, b) in enumerate(zip(wanted, given, strict=False)) if a != b), len(given))
            ids = slice(max(0, same - SHOWN_IDS // 2), max(0, same - SHOWN_IDS // 2) + SHOWN_IDS)
            at = int(reference.sizes[wanted[:same]].sum())
            return EngineDifference(
                source=source,
                position=position,
                text=_shown(text.encode(), at),
                expected_ids=tuple(wanted[ids]),
                found_ids=tuple(given[ids]),
            )
    raise AssertionError("the offsets of equal texts begin elsewhere")


def _shown(text: bytes, at: int) -> str:
    around = text[max(0, at - SHOWN_BYTES // 2) : at + SHOWN_BYTES // 2]
    return repr(around.decode(errors="replace"))[:SHOWN_CHARACTERS]
