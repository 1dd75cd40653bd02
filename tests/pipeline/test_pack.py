"""Packing: each document once, no pack overfull, never more packs than best-fit decreasing."""

import base64
import importlib.util
import json
import random
import time
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.pack import PackPlan, Run, best_fit_packs, count_packs, exact_fit_packs, order_packs, pack_lengths

GSM8K = Path(__file__).parents[3] / "shared" / "data" / "gsm8k.jsonl"

PINNED = [6, 7, 9, 4, 0, 8, 2, 1, 3, 5]

Lengths = npt.NDArray[np.int64]


@st.composite
def packings(draw: st.DrawFn) -> tuple[Lengths, int]:
    seq_len = draw(st.integers(1, 60))
    shortest = draw(st.integers(1, seq_len))
    lengths = draw(st.lists(st.integers(shortest, seq_len), max_size=80))
    times = draw(st.sampled_from([1, 1, 2, 7, 40]))  # many of a length make runs of equal packs
    return np.array(lengths * times, np.int64), seq_len


def packs_of(plan: PackPlan) -> list[list[int]]:
    return [part.tolist() for part in np.split(plan.documents, plan.offsets[1:-1])] if len(plan) else []


def slow_best_fit(lengths: list[int], seq_len: int) -> list[int]:
    """The room left in each pack, by looking at every pack for every document."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [index for index, room in enumerate(rooms) if room >= length]
        if fitting:
            rooms[min(fitting, key=lambda index: rooms[index])] -= length
        else:
            rooms.append(seq_len - length)
    return rooms


def packs_of_runs(runs: list[Run]) -> list[list[int]]:
    return [run.lengths for run in runs for _ in range(run.packs)]


def slow_exact_fit(lengths: list[int], seq_len: int) -> list[list[int]]:
    """The lengths in each pack, one document at a time, by looking at every pair of those that are left."""
    left = Counter(lengths)
    packs: list[list[int]] = []
    while +left:
        pack: list[int] = []
        while fitting := [length for length in +left if length <= seq_len - sum(pack)]:
            rest = seq_len - sum(pack)
            longer = max((each for each in +left if left[rest - each] > 0 and 2 * each >= rest), default=0)
            if longer and max(fitting) < rest and (2 * longer > rest or left[longer] > 1):
                pack += [longer, rest - longer]
                left.subtract([longer, rest - longer])
                break
            pack.append(max(fitting))
            left[max(fitting)] -= 1
        packs.append(pack)
    return packs


@settings(deadline=None)
@given(packings())
@example((np.array([7] * 9 + [3] * 5 + [2] * 9), 10))
def test_runs_of_packs_are_the_packs_made_one_by_one(case: tuple[Lengths, int]) -> None:
    lengths, seq_len = case
    runs = exact_fit_packs(Counter(lengths.tolist()), seq_len)
    assert packs_of_runs(runs) == slow_exact_fit(lengths.tolist(), seq_len)
    assert count_packs(runs) == len(packs_of_runs(runs))


def test_many_documents_of_few_lengths_are_few_runs() -> None:
    counts = {1500: 10_000, 548: 10_000, 700: 30_000, 648: 30_000}
    assert len(exact_fit_packs(counts, 2048)) < 20
    assert len(best_fit_packs(counts, 2048)) < 20


@given(packings(), st.randoms())
def test_packs_in_another_order_are_the_same_packs(case: tuple[Lengths, int], rng: random.Random) -> None:
    plan = pack_lengths(*case)
    order = rng.sample(range(len(plan)), len(plan))
    assert packs_of(plan.in_order(np.array(order, np.int64))) == [packs_of(plan)[pack] for pack in order]


@given(packings())
@example((np.zeros(0, np.int64), 8))
@example((np.array([8, 8]), 8))
def test_each_document_is_in_exactly_one_pack_that_holds_it(case: tuple[Lengths, int]) -> None:
    lengths, seq_len = case
    plan = pack_lengths(lengths, seq_len)
    assert sorted(plan.documents.tolist()) == list(range(len(lengths)))
    assert plan.offsets[0] == 0
    assert plan.offsets[-1] == len(lengths)
    for pack in packs_of(plan):
        assert pack
        assert pack == sorted(pack)
        assert lengths[pack].sum() <= seq_len


@given(packings())
@example((np.array([4, 4, 3, 3, 3, 3]), 10))
def test_never_more_packs_than_best_fit_decreasing(case: tuple[Lengths, int]) -> None:
    lengths, seq_len = case
    assert len(pack_lengths(lengths, seq_len)) <= len(slow_best_fit(lengths.tolist(), seq_len))


@given(packings())
def test_best_fit_on_counts_is_best_fit_one_by_one(case: tuple[Lengths, int]) -> None:
    lengths, seq_len = case
    packs = best_fit_packs(Counter(lengths.tolist()), seq_len)
    rooms = sorted(seq_len - sum(pack) for pack in packs_of_runs(packs))
    assert rooms == sorted(slow_best_fit(lengths.tolist(), seq_len))


@given(packings())
def test_equal_lengths_are_taken_in_input_order(case: tuple[Lengths, int]) -> None:
    lengths, seq_len = case
    documents = pack_lengths(lengths, seq_len).documents
    for length in set(lengths.tolist()):
        taken = documents[lengths[documents] == length]
        assert np.array_equal(taken, np.sort(taken))


@given(packings())
def test_the_same_lengths_give_the_same_packs_whatever_the_integer_type(case: tuple[Lengths, int]) -> None:
    lengths, seq_len = case
    first, second = pack_lengths(lengths, seq_len), pack_lengths(lengths.astype(np.int32), seq_len)
    assert np.array_equal(first.documents, second.documents)
    assert np.array_equal(first.offsets, second.offsets)


def test_the_last_places_are_filled_exactly() -> None:
    lengths = np.array([7, 6, 5, 4, 3, 3, 2])
    plan = pack_lengths(lengths, 10)
    assert [lengths[pack].sum() for pack in packs_of(plan)] == [10, 10, 10]


def test_best_fit_is_taken_where_it_needs_fewer_packs() -> None:
    lengths = [16, 12, 10, 9, 9, 5, 3, 3]
    assert count_packs(exact_fit_packs(dict(Counter(lengths)), 23)) == 4
    assert len(pack_lengths(np.array(lengths), 23)) == 3


@pytest.mark.parametrize("length", [0, -1, 9])
def test_a_length_that_callers_must_reject(length: int) -> None:
    with pytest.raises(AssertionError):
        pack_lengths(np.array([3, length]), 8)


def test_a_million_documents_take_seconds() -> None:
    lengths = np.random.default_rng(0).integers(1, 2049, 1_000_000)
    start = time.perf_counter()
    plan = pack_lengths(lengths, 2048)
    assert time.perf_counter() - start < 20
    assert lengths.sum() / (len(plan) * 2048) > 0.998


def test_one_long_document_among_short_ones() -> None:
    lengths = np.concatenate([[2**23], np.random.default_rng(0).integers(1, 2000, 20_000)])
    assert len(pack_lengths(lengths, 2**24)) == -(-lengths.sum() // 2**24)


@given(packs=st.integers(0, 300), seed=st.integers(-(2**70), 2**70), unit=st.integers(0, 10**6))
def test_the_order_is_a_permutation(packs: int, seed: int, unit: int) -> None:
    order = order_packs(seed, unit, 0, packs)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(packs))


def slow_mix(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) % 2**64
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
    return value ^ value >> 31


@given(seed=st.integers(-(2**63), 2**64), unit=st.integers(0, 10**6), block=st.integers(0, 10**4))
def test_the_order_is_that_of_the_hash_as_it_is_written_down(seed: int, unit: int, block: int) -> None:
    of_block = slow_mix(slow_mix(slow_mix(seed % 2**64) ^ unit) ^ block)
    expected = sorted(range(40), key=lambda pack: (slow_mix(of_block ^ pack), pack))
    assert order_packs(seed, unit, block, 40).tolist() == expected


def test_the_order_never_changes_between_versions() -> None:
    assert order_packs(0, 12, 3, 10).tolist() == PINNED


def test_seeds_units_and_blocks_give_other_orders() -> None:
    orders = {tuple(order_packs(seed, unit, block, 50)) for seed in range(3) for unit in range(3) for block in range(3)}
    assert len(orders) == 27


@pytest.fixture(scope="module")
def gsm8k_lengths() -> Lengths:
    """Tokens of each row as one turn of ChatML, in Qwen's tokenizer."""
    spec = importlib.util.find_spec("dashscope")
    if not GSM8K.exists() or spec is None or not spec.submodule_search_locations:
        pytest.skip("needs gsm8k.jsonl and Qwen's rank file")
    ranks = Path(spec.submodule_search_locations[0]) / "resources" / "qwen.tiktoken"
    import tiktoken

    lines = (line.split() for line in ranks.read_bytes().splitlines() if line)
    encoding = tiktoken.Encoding(
        "qwen",
        pat_str=r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
        mergeable_ranks={base64.b64decode(token): int(rank) for token, rank in lines},
        special_tokens={"<|im_start|>": 151644, "<|im_end|>": 151645},
    )
    chat = "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"
    texts = [chat.format(**json.loads(line)) for line in GSM8K.read_text().splitlines()]
    return np.array([len(ids) for ids in encoding.encode_batch(texts, allowed_special="all")])


def test_real_lengths_fill_their_packs(gsm8k_lengths: Lengths) -> None:
    plan = pack_lengths(gsm8k_lengths, 2048)
    assert len(gsm8k_lengths) == 7473
    assert gsm8k_lengths.sum() / (len(plan) * 2048) >= 0.995
    assert len(plan) < len(slow_best_fit(gsm8k_lengths.tolist(), 2048))
