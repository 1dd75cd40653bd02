"""Write the rows of a fine-tune that can be judged: sums of two numbers of two digits, asked in four ways.

    python examples/sums/make_sums.py out/sums/rows

train.jsonl has each of its sums in all four ways, held_out.jsonl has each of its own in one. A pair that is held out is
held out in both orders: who was taught 38 + 47 was not asked something new with 47 + 38. The same rows come out each
time: a pair is held out by a hash of its numbers.
"""

import json
import sys
from collections.abc import Iterable
from hashlib import sha256
from itertools import combinations_with_replacement, cycle
from pathlib import Path
from typing import Any

Pair = tuple[int, int]

NUMBERS = range(10, 100)
HELD_OUT = 600
QUESTIONS = ("What is {a} + {b}?", "How much is {a} + {b}?", "Add {a} and {b}.", "Please add {a} and {b}.")
"""In all of them the digits stand equally far from the answer, so what is learnt from one serves the others."""


def split_pairs() -> tuple[list[Pair], list[Pair]]:
    """(train, held out): all ordered pairs; both orders of a pair are on the same side."""
    unordered = sorted(combinations_with_replacement(NUMBERS, 2), key=lambda pair: hash_text(f"{pair[0]} {pair[1]}"))
    return in_both_orders(unordered[HELD_OUT:]), in_both_orders(unordered[:HELD_OUT])


def hash_text(text: str) -> bytes:
    return sha256(text.encode()).digest()


def in_both_orders(pairs: Iterable[Pair]) -> list[Pair]:
    return sorted({order for a, b in pairs for order in ((a, b), (b, a))})


def make_row(pair: Pair, question: str) -> dict[str, Any]:
    a, b = pair
    asked = {"role": "user", "content": question.format(a=a, b=b)}
    return {"messages": [asked, {"role": "assistant", "content": str(a + b)}]}


def train_rows(pairs: Iterable[Pair]) -> list[dict[str, Any]]:
    """Shuffled: neighbours in a file become neighbours in a pack, and a step on sums that are alike teaches little."""
    rows = [make_row(pair, question) for pair in pairs for question in QUESTIONS]
    return sorted(rows, key=lambda row: hash_text(row["messages"][0]["content"]))


def held_out_rows(pairs: Iterable[Pair]) -> list[dict[str, Any]]:
    return [make_row(pair, question) for pair, question in zip(pairs, cycle(QUESTIONS), strict=False)]


def write_rows(folder: Path) -> None:
    train, held_out = split_pairs()
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train_rows(train)), ("held_out", held_out_rows(held_out))):
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


if __name__ == "__main__":
    write_rows(Path(sys.argv[1]))
