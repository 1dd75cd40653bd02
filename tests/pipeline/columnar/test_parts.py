"""The parts of the columnar path against slow and obvious references."""

import sys
import unicodedata

import numpy as np
from hard_texts import HARD_TEXTS
from hypothesis import given
from hypothesis import strategies as st

from pipeline.chat.replay.expressions import Leaf, Text
from pipeline.chat.replay.symbols import Derived, Piece
from pipeline.chat.traced import Field, Origin
from pipeline.columnar.compile import Unless, begins_with
from pipeline.columnar.suspects import TokenScanner, find_unnormalized
from pipeline.encoders.batch import Strings
from pipeline.encoders.normalization import _second_halves

TOKENS = ("<tool_call>", "</tool_call>", "<|fim|>", "<", "\u2581\u2581", "[X]")
PIECES = st.sampled_from(
    ("<tool_call>", "<tool", "_call>", "</", "<|fim|>", "[X", "]", "\u2581", "a", " ", "\U0001f600")
)
LETTERS = st.text("ab", min_size=1, max_size=3)


@given(st.lists(PIECES, max_size=12).map("".join), st.sets(st.sampled_from(TOKENS)))
def test_tokens_are_found_wherever_they_begin(text: str, tokens: set[str]) -> None:
    data = text.encode()
    found = TokenScanner(tokens).find(np.frombuffer(data, np.uint8))
    expected = {at for token in tokens for at in range(len(data)) if data.startswith(token.encode(), at)}
    assert sorted(found.tolist()) == sorted(expected)


@given(st.lists(st.sampled_from(HARD_TEXTS) | st.text(max_size=5).filter(lambda text: _encodes(text)), max_size=8))
def test_texts_that_are_not_normalized(texts: list[str]) -> None:
    strings = Strings.of(texts)
    found = find_unnormalized(strings.data, strings.offsets, "NFC")
    expected = [n for n, text in enumerate(texts) if not unicodedata.is_normalized("NFC", text)]
    assert found.tolist() == expected
    assert not len(find_unnormalized(strings.data, strings.offsets, None))


def _encodes(text: str) -> bool:
    try:
        return bool(text.encode()) or not text
    except UnicodeEncodeError:
        return False


def test_second_halves_are_those_of_all_of_unicode() -> None:
    fields = (unicodedata.decomposition(chr(code)).split() for code in range(sys.maxunicode + 1))
    pairs = [chr(int(pair[1], 16)) for pair in fields if len(pair) == 2 and not pair[0].startswith("<")]
    expected = {second for second in pairs if unicodedata.combining(second) == 0}
    assert len(expected) > 20
    assert expected <= _second_halves()


def leaf(number: int) -> Derived:
    origin = Origin(number, Field.BODY)
    return Derived(Leaf(number, 0, origin), origin)


PROGRAMS = st.lists(LETTERS.map(Text) | st.integers(0, 2).map(leaf), max_size=5)


def write(pieces: list[Piece], texts: list[str]) -> str:
    return "".join(piece.text if isinstance(piece, Text) else texts[piece.expression.group] for piece in pieces)  # type: ignore[union-attr]


@given(
    PROGRAMS, PROGRAMS, st.integers(0, 5), st.lists(st.lists(LETTERS, min_size=3, max_size=3), min_size=8, max_size=8)
)
def test_whether_a_program_begins_with_another(
    whole: list[Piece], other: list[Piece], kept: int, rows: list[list[str]]
) -> None:
    """For every row without an empty text, as the answer says; `None` says nothing."""
    prompt = [*whole[:kept], *other[:2]]
    answer = begins_with(whole, prompt)
    for texts in rows:
        is_prefix = write(whole, texts).startswith(write(prompt, texts))
        if isinstance(answer, Unless):
            first = texts[answer.text.group].encode()[0]  # type: ignore[union-attr]
            assert not is_prefix or first == answer.byte
        elif answer is not None:
            assert is_prefix == answer


def test_programs_that_begin_with_each_other() -> None:
    whole = [Text("<a>"), Text("b"), leaf(0), Text("</a><a>"), leaf(1)]
    assert begins_with(whole, whole[:3]) is True
    assert begins_with(whole, [Text("<a>b"), leaf(0), Text("</a>")]) is True
    assert begins_with(whole, [Text("<c>")]) is False
    assert begins_with(whole, [*whole, Text("more")]) is False
    assert begins_with(whole, [Text("<a>b"), leaf(1)]) is None
    assert begins_with(whole, [Text("<a>b<think>")]) == Unless(Leaf(0, 0, Origin(0, Field.BODY)), ord("<"))
