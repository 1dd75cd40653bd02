"""Positions, targets and weights against a slow reference that looks at one token at a time."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from schemas.channels import LEGAL
from schemas.policy import PRESETS, LossPolicy
from train.batch import IGNORE, make_batch
from train.data import Pack

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
        weight=None if weight is None else np.array(weight + [1.0] * len(padded), dtype=np.float32),
    )


def reference(pack: Pack, policy: LossPolicy) -> dict[int, tuple[int, float]]:
    """{place: (target, weight)} of the places that are trained."""
    trained, start = {}, 0
    for length in pack.doc_lengths.tolist():
        for place in range(start, start + length - 1):
            weight = 1.0 if pack.weight is None else float(pack.weight[place + 1])
            if policy.table()[pack.channel[place + 1]] and weight:
                trained[place] = (int(pack.input_ids[place + 1]), weight)
        start += length
    return trained


@given(st.lists(packs(), min_size=1, max_size=3), st.sampled_from(sorted(PRESETS)), st.integers(0, 2))
def test_targets_and_weights_equal_the_reference(batch_packs: list[Pack], preset: str, empty_rows: int) -> None:
    policy = PRESETS[preset]
    batch = make_batch(batch_packs, len(batch_packs) + empty_rows, SEQ_LEN, policy.table())
    for row, pack in enumerate(batch_packs):
        targets, weights = batch.targets[row].tolist(), batch.weights[row].tolist()
        found = {place: (targets[place], weights[place]) for place in range(SEQ_LEN) if weights[place]}
        assert found == reference(pack, policy)
        assert all(targets[place] == IGNORE for place in range(SEQ_LEN) if place not in found)
        assert batch.input_ids[row].tolist() == pack.input_ids.tolist()
    assert not batch.weights[len(batch_packs) :].any()
    assert batch.tokens == sum(int(pack.doc_lengths.sum()) for pack in batch_packs)


@given(packs())
def test_positions_restart_and_documents_are_numbered(pack: Pack) -> None:
    batch = make_batch([pack], 1, SEQ_LEN, PRESETS["all"].table())
    lengths = [*pack.doc_lengths.tolist(), SEQ_LEN - int(pack.doc_lengths.sum())]
    assert batch.position_ids[0].tolist() == [place for length in lengths for place in range(length)]
    assert batch.document_ids[0].tolist() == [number for number, length in enumerate(lengths) for _ in range(length)]


def test_the_reference_is_not_empty() -> None:
    """Guards the tests above: policies differ, and the padding would be trained if only the table were asked."""
    pack = Pack(
        input_ids=np.arange(SEQ_LEN, dtype=np.int32),
        channel=np.array([2 | 8, 3 | 8, 3 | 8, 2 | 8, 3 | 8] + [0] * 7, dtype=np.uint8),
        doc_lengths=np.array([3, 2], dtype=np.int32),
        weight=None,
    )
    assert PRESETS["all"].table()[0]
    assert reference(pack, PRESETS["assistant"]) == {0: (1, 1.0), 1: (2, 1.0), 3: (4, 1.0)}
    assert len(reference(pack, PRESETS["last_turn"])) == 0
