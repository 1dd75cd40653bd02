"""Several data sets as one stream: shares of tokens, whole epochs, and a state of one integer each."""

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import DatasetError
from train.mixture import Mixture, PackRef
from train.stream import Extent, Segment


@dataclass(frozen=True)
class Stand:
    """What a mixture asks of a data set; `packs` of its shards, of which the first generation has the first."""

    packs: list[int]
    tokens: int
    id: str = "a"
    seq_len: int = 64
    tokenizer: str = "t"
    path: str = "data"
    holdout: bool = False

    def __len__(self) -> int:
        return sum(self.packs)

    @property
    def manifest(self) -> Any:
        tokenizer = SimpleNamespace(sha256=self.tokenizer)
        return SimpleNamespace(generation=0, seq_len=self.seq_len, tokenizer=tokenizer)

    def extent(self, _generation: int) -> Extent:
        return Extent(self.id, tuple(self.packs), self.tokens)


class Grown(Stand):
    """Its first shard is generation 0, the next generation 1 and so on."""

    def extent(self, generation: int) -> Extent:
        packs = tuple(self.packs[: generation + 1])
        return Extent(f"{self.id}{generation}", packs, sum(packs))


SHARDS = st.lists(st.integers(1, 30), min_size=1, max_size=3)
STANDS = st.lists(
    st.builds(lambda packs, fill: Stand(packs, int(sum(packs) * fill)), SHARDS, st.integers(20, 64)),
    min_size=1,
    max_size=4,
)
WEIGHTS = st.sampled_from([0.1, 0.25, 0.3, 1.0, 2.0, 7.0])


def make(stands: Any, weights: list[float] | None = None, seed: int = 0, window: int | None = None) -> Mixture:
    return Mixture(stands, weights, seed, window)


@given(stands=STANDS, epochs=st.integers(1, 3))
def test_without_weights_an_epoch_has_every_pack_once(stands: list[Stand], epochs: int) -> None:
    mixture, taken = make(stands), (0,) * len(stands)
    everything = {PackRef(index, pack) for index, stand in enumerate(stands) for pack in range(len(stand))}
    for epoch in range(epochs):
        packs, taken = mixture.take(taken, len(everything))
        assert set(packs) == everything
        assert taken == tuple((epoch + 1) * len(stand) for stand in stands)


@given(stands=STANDS, grown=st.lists(st.integers(1, 30), min_size=3, max_size=3), at=st.integers(1, 3))
def test_epochs_stay_in_step_where_a_data_set_grows(stands: list[Stand], grown: list[int], at: int) -> None:
    """Its second and third generation are read from epoch `at` and the one after on. What was chosen before stays."""
    datasets = [*stands, Grown(grown, sum(grown))]
    segments: list[list[Segment]] = [[Segment(0, 0)] for _ in datasets]
    before = Mixture(datasets, None, 5, None, segments)  # type: ignore[arg-type]
    segments[-1] += [Segment(1, at), Segment(2, at + 1)]
    mixture = Mixture(datasets, None, 5, None, segments)  # type: ignore[arg-type]
    assert mixture.fingerprint != before.fingerprint
    taken = (0,) * len(datasets)
    for epoch in range(at + 2):
        size = sum(map(len, stands)) + sum(grown[: max(1, epoch - at + 2)])
        alike = before.take(taken, size)
        packs, taken = mixture.take(taken, size)
        assert len(set(packs)) == size
        assert taken == tuple(mixture.end_of(dataset, epoch) for dataset in range(len(datasets)))
        assert epoch >= at or (packs, taken) == alike


@given(stands=STANDS, data=st.data(), far=st.sampled_from([0, 2**40]))
def test_shares_of_tokens_are_those_of_the_weights_after_every_pack(
    stands: list[Stand], data: st.DataObject, far: int
) -> None:
    """There is a time at which each data set should have given what it gave, to half a pack; also far down it."""
    weights = data.draw(st.lists(WEIGHTS, min_size=len(stands), max_size=len(stands)))
    strides = [
        Fraction(stand.tokens, len(stand)) / Fraction(str(weight))
        for stand, weight in zip(stands, weights, strict=True)
    ]
    mixture, taken = make(stands, weights), tuple(round(far / stride) for stride in strides)
    for _ in range(30):
        packs, taken = mixture.take(taken, 1)
        assert len(packs) == 1
        earliest = max((given - Fraction(1, 2)) * stride for given, stride in zip(taken, strides, strict=True))
        latest = min((given + Fraction(1, 2)) * stride for given, stride in zip(taken, strides, strict=True))
        assert earliest <= latest


@given(stands=STANDS, cut=st.integers(0, 40), seed=st.integers(0, 2**63 - 1), window=st.none() | st.integers(1, 2))
def test_the_stream_does_not_depend_on_how_it_is_taken(
    stands: list[Stand], cut: int, seed: int, window: int | None
) -> None:
    mixture, start = make(stands, None, seed, window), (0,) * len(stands)
    whole, end = mixture.take(start, 40)
    first, middle = mixture.take(start, cut)
    rest, last = make(stands, None, seed, window).take(middle, 40 - cut)
    assert (first + rest, last) == (whole, end)
    assert Counter(ref.dataset for ref in whole) == {index: given for index, given in enumerate(end) if given}


def test_shares_are_of_tokens_not_of_packs() -> None:
    """Packs of the second are half as full, so it gives twice as many."""
    stands = [Stand([100], 6400), Stand([100], 3200)]
    _, taken = make(stands, [1.0, 1.0]).take((0, 0), 300)
    assert taken == (100, 200)


def test_data_sets_of_equal_size_have_orders_of_their_own() -> None:
    packs, _ = make([Stand([50], 3000), Stand([50], 3000)]).take((0, 0), 100)
    first, second = ([ref.pack for ref in packs if ref.dataset == index] for index in (0, 1))
    assert first != second


@pytest.mark.parametrize(
    ("other", "message"),
    [(Stand([5], 300, seq_len=128), "seq_len is 64 in the one and 128"), (Stand([5], 300, tokenizer="u"), "tokenizer")],
)
def test_data_sets_that_do_not_go_together_are_refused(other: Stand, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        make([Stand([5], 300), other])


def test_the_fingerprint_is_of_all_that_the_stream_depends_on() -> None:
    stand, other = Stand([5, 6], 300), Stand([4], 200)
    variants = [
        make([stand]),
        make([Stand([6, 5], 300)]),
        make([Stand([5, 6], 301)]),
        make([Stand([5, 6], 300, id="b")]),
        make([Stand([5, 6], 300, holdout=True)]),
        make([stand], [1.0]),
        make([stand], None, 1),
        make([stand], None, 0, 1),
        make([stand, other]),
        make([other, stand]),
        make([stand, other], [1.0, 2.0]),
        make([stand, other], [2.0, 1.0]),
    ]
    assert len({mixture.fingerprint for mixture in variants}) == len(variants)
    assert make([Stand([5, 6], 300, path="moved")]).fingerprint == variants[0].fingerprint
