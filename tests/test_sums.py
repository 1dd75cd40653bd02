"""The rows of examples/sums: what is held out is never trained on, in either order, and it is enough to judge by."""

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from examples.sums.evaluate import Answer, cut_at_stop, passes
from examples.sums.make_sums import NUMBERS, QUESTIONS, Pair, make_row, split_pairs, write_rows

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[Pair, str]]]:
    """(pair, answer) of each row, as a reader of the files sees them: the numbers of a question are the pair."""
    folder = tmp_path_factory.mktemp("rows")
    write_rows(folder)
    return {name: read_rows(folder / f"{name}.jsonl") for name in ("train", "held_out")}


def read_rows(path: Path) -> list[tuple[Pair, str]]:
    found = []
    for line in path.read_text().splitlines():
        asked, answered = json.loads(line)["messages"]
        assert (asked["role"], answered["role"]) == ("user", "assistant")
        a, b = map(int, re.findall(r"\d+", asked["content"]))
        found.append(((a, b), answered["content"]))
    return found


def test_every_answer_is_the_sum(rows: dict[str, list[tuple[Pair, str]]]) -> None:
    assert all(answer == str(a + b) for side in rows.values() for (a, b), answer in side)


def test_no_held_out_pair_is_trained_on_in_either_order(rows: dict[str, list[tuple[Pair, str]]]) -> None:
    trained, held_out = ({frozenset(pair) for pair, _ in rows[side]} for side in ("train", "held_out"))
    assert not trained & held_out
    assert len(trained | held_out) == 90 * 91 // 2


def test_each_pair_is_asked_once_or_in_every_way(rows: dict[str, list[tuple[Pair, str]]]) -> None:
    held_out, trained = (Counter(pair for pair, _ in rows[side]) for side in ("held_out", "train"))
    assert set(held_out.values()) == {1}
    assert set(trained.values()) == {len(QUESTIONS)}
    assert sorted([*held_out, *trained]) == [(a, b) for a in NUMBERS for b in NUMBERS]


def test_enough_is_held_out_and_of_all_kinds(rows: dict[str, list[tuple[Pair, str]]]) -> None:
    held_out = [pair for pair, _ in rows["held_out"]]
    assert len(held_out) >= 1000
    carries = Counter(a % 10 + b % 10 >= 10 for a, b in held_out)
    hundreds = Counter(a + b >= 100 for a, b in held_out)
    assert min(*carries.values(), *hundreds.values()) > len(held_out) // 4


def test_neighbours_are_not_alike(rows: dict[str, list[tuple[Pair, str]]]) -> None:
    """Of two random pairs about 1 in 23 has a number in common; in a file in order nearly all neighbours have."""
    neighbours = list(pairwise(frozenset(pair) for pair, _ in rows["train"]))
    assert sum(bool(one & other) for one, other in neighbours) < len(neighbours) / 15


def test_the_same_rows_come_out_each_time(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_rows(tmp_path / name)
    for file in ("train.jsonl", "held_out.jsonl"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_one_pair_of_each_side_by_name() -> None:
    """Other pairs held out would make figures of accuracy incomparable."""
    train, held_out = split_pairs()
    assert held_out[:3] == [(10, 15), (10, 24), (10, 32)]
    assert train[:3] == [(10, 10), (10, 11), (10, 12)]


def test_each_digit_is_a_token_equally_far_from_the_answer() -> None:
    tokenizer = Tokenizer.from_file(str(EXAMPLES / "tokenizer" / "tokenizer.json"))
    endings = set()
    for question in QUESTIONS:
        asked, answered = make_row((47, 98), question)["messages"]
        tokens = tokenizer.encode(asked["content"]).tokens
        digits = [(place - len(tokens), token) for place, token in enumerate(tokens) if re.search(r"\d", token)]
        assert [token for _, token in digits] == ["4", "7", "9", "8"]
        assert tokenizer.encode(answered["content"]).tokens == ["1", "4", "5"]
        endings.add(tuple(digits))
    assert len(endings) == 1


class Letters:
    """Decodes 1, 2, 3 to a, b, c."""

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(96 + token) for token in ids)


@pytest.mark.parametrize(
    ("ids", "answer"),
    [
        ([1, 2, 9, 3], Answer("ab", ended=True)),
        ([1, 8, 9, 9], Answer("a", ended=True)),
        ([9], Answer("", ended=True)),
        ([1, 2, 3], Answer("abc", ended=False)),
    ],
)
def test_an_answer_ends_at_the_first_stop(ids: list[int], answer: Answer) -> None:
    assert cut_at_stop(ids, {8, 9}, Letters()) == answer


@pytest.mark.parametrize(
    ("exact", "ended", "passed"), [(100, 100, True), (95, 100, True), (94, 100, False), (100, 99, False)]
)
def test_it_passes_with_95_percent_exact_and_every_turn_ended(exact: int, ended: int, passed: bool) -> None:
    answers = [Answer("4" if index < exact else "5", ended=index < ended) for index in range(100)]
    assert passes(answers, ["4"] * 100) is passed
