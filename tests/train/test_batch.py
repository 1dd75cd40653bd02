"""Positions, targets and weights against a slow reference that looks at one token at a time."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.channels import LEGAL
from schemas.policy import PRESETS, LossPolicy
from train.batch import Batch, Entry, make_batch
from train.packs import Pack

SEQ_LEN = 12
LEGAL_BYTES = np.flatnonzero(LEGAL).tolist()


@st.composite
def packs(draw: st.DrawFn) -> Pack:
    """A pack of one or more documents of any legal channels; the first token of a document may be trained here."""
    borders = draw(st.sets(st.integers(1, SEQ_LEN), min_size=1))
    lengths = np.diff([0, *sorted(borders)]).astype(np.int32)
    total = int(lengths.sum())
    padded = [0] * (SEQ_LEN - total)
    channel = draw(st.lists(st.sampled_from(LEGAL_BYTES), min_size=total, max_size=total))
    ids = draw(st.lists(st.integers(0, 99), min_size=total, max_size=total))
    weight = draw(st.none() | st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=total, max_size=total))
    return Pack(
        input_ids=np.array(ids + padded, dtype=np.int32),
        channel=np.array(channel + padded, dtype=np.uint8),
        doc_lengths=lengths,
        doc_source=np.array(draw(st.lists(st.integers(0, 2), min_size=len(lengths), max_size=len(lengths))), np.int32),
        weight=None if weight is None else np.array(weight + [1.0] * len(padded), dtype=np.float32),
    )


def reference(pack: Pack, policy: LossPolicy, per_document: bool) -> dict[int, tuple[int, float, int]]:
    """{place: (target, weight, source)} of the places that are trained."""
    trained, start = {}, 0
    for length, source in zip(pack.doc_lengths.tolist(), pack.doc_source.tolist(), strict=True):
        document = {}
        for place in range(start, start + length - 1):
            weight = 1.0 if pack.weight is None else float(pack.weight[place + 1])
            if policy.table()[pack.channel[place + 1]] and weight:
                document[place] = (int(pack.input_ids[place + 1]), weight, source)
        total = sum(weight for _, weight, _ in document.values()) if per_document else 1.0
        trained |= {place: (target, weight / total, source) for place, (target, weight, source) in document.items()}
        start += length
    return trained


def batch_of(batch_packs: list[Pack], preset: str, rows: int, per_document: bool = False) -> Batch:
    entries = [Entry(pack, PRESETS[preset].table(), 10, True) for pack in batch_packs]
    return make_batch(entries, rows, SEQ_LEN, per_document=per_document)


@given(st.lists(packs(), min_size=1, max_size=3), st.sampled_from(sorted(PRESETS)), st.integers(0, 2), st.booleans())
def test_what_is_trained_equals_the_reference(
    batch_packs: list[Pack], preset: str, empty_rows: int, per_document: bool
) -> None:
    batch = batch_of(batch_packs, preset, len(batch_packs) + empty_rows, per_document)
    columns = [column.tolist() for column in (batch.places, batch.targets, batch.weights, batch.groups)]
    found = {place: tuple(values) for place, *values in zip(*columns, strict=True)}
    expected = {
        row * SEQ_LEN + place: (target, weight, 10 + source)
        for row, pack in enumerate(batch_packs)
        for place, (target, weight, source) in reference(pack, PRESETS[preset], per_document).items()
    }
    assert found.keys() == expected.keys()
    assert all(found[place] == pytest.approx(expected[place], rel=1e-15) for place in found)
    assert batch.input_ids.tolist() == [pack.input_ids.tolist() for pack in batch_packs] + [[0] * SEQ_LEN] * empty_rows
    assert batch.tokens == sum(int(pack.doc_lengths.sum()) for pack in batch_packs)


@given(st.lists(packs(), min_size=1, max_size=3), st.integers(0, 1))
def test_positions_restart_and_documents_are_numbered(batch_packs: list[Pack], empty_rows: int) -> None:
    batch = batch_of(batch_packs, "all", len(batch_packs) + empty_rows)
    rows = [[*pack.doc_lengths.tolist(), SEQ_LEN - int(pack.doc_lengths.sum())] for pack in batch_packs]
    rows += [[SEQ_LEN]] * empty_rows
    assert batch.position_ids.tolist() == [[place for length in row for place in range(length)] for row in rows]
    assert batch.document_ids.tolist() == [
        [number for number, length in enumerate(row) for _ in range(length)] for row in rows
    ]
    lengths = [length for row in rows for length in row if length]
    assert [int(gap) for gap in batch.cu_seqlens.diff() if gap] == lengths
    assert batch.cu_seqlens[0] == 0
    assert len(batch.cu_seqlens).bit_count() == 1


@given(st.lists(packs(), min_size=1, max_size=3))
def test_with_documents_the_weights_add_up_to_their_number(batch_packs: list[Pack]) -> None:
    batch = batch_of(batch_packs, "assistant", len(batch_packs), per_document=True)
    borders = batch.cu_seqlens.tolist()
    trained = sum(any(start <= place < end for place in batch.places.tolist()) for start, end in pairwise(borders))
    assert float(batch.weights.sum()) == pytest.approx(trained, rel=1e-14)


def test_the_reference_is_not_empty() -> None:
    """Guards the tests above: policies differ, and the padding would be trained if only the table were asked."""
    pack = Pack(
        input_ids=np.arange(SEQ_LEN, dtype=np.int32),
        channel=np.array([2 | 8, 3 | 8, 3 | 8, 2 | 8, 3 | 8] + [0] * 7, dtype=np.uint8),
        doc_lengths=np.array([3, 2], dtype=np.int32),
        doc_source=np.zeros(2, dtype=np.int32),
        weight=None,
    )
    assert PRESETS["all"].table()[0]
    assert reference(pack, PRESETS["assistant"], False) == {0: (1, 1.0, 0), 1: (2, 1.0, 0), 3: (4, 1.0, 0)}
    assert reference(pack, PRESETS["assistant"], True) == {0: (1, 0.5, 0), 1: (2, 0.5, 0), 3: (4, 1.0, 0)}
    assert len(reference(pack, PRESETS["last_turn"], False)) == 0
