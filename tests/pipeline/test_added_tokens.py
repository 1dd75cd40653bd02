"""Added tokens of every flag, in tokenizers of every make: matched as `tokenizers` does it, and typed ones literal."""

import functools
import sys
from collections.abc import Sequence
from itertools import chain

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from synthetic_tokenizers import KINDS, TOKENS, make_json
from tokenizers import AddedToken as HuggingFaceToken
from tokenizers import Tokenizer, models

from pipeline.chat.control_tokens import template_tokens
from pipeline.chat.regions import RowSpan
from pipeline.chat.traced import Field, Origin
from pipeline.encoders.base import AddedToken, EncodingFailed, TokenFinder, TokenSpan
from pipeline.encoders.byte_pairs import BytePairEncoder
from pipeline.encoders.huggingface import HuggingFaceEncoder
from pipeline.encoders.literal import _name
from schemas.errors import ConfigError

WITHOUT_NORMALIZER = tuple(kind for kind in KINDS if "NF" not in kind and "Prepend and" not in kind)
PIECES = [*TOKENS, " ", "\n", "  ", "a", "b.", "x", "_", "\u0301", "\u0338", "\u00a0", "<|end", "|>", "<s"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
PARTS = st.lists(st.tuples(st.booleans(), TEXTS), max_size=6)
QUICK = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
each_kind = pytest.mark.parametrize("kind", KINDS)


@functools.cache
def reference(kind: str) -> Tokenizer:
    return Tokenizer.from_str(make_json(kind))


@functools.cache
def encoder(kind: str) -> HuggingFaceEncoder:
    return HuggingFaceEncoder(make_json(kind), None)


def laid_out(parts: Sequence[tuple[bool, str]]) -> tuple[str, list[RowSpan]]:
    """The whole text of (is the row's, text), and the spans of the row's text."""
    text, rows = "", []
    for is_row, part in parts:
        if is_row:
            rows.append(RowSpan(len(text), len(text) + len(part), Origin(0, Field.BODY)))
        text += part
    return text, rows


def template_controls(kind: str, text: str, rows: Sequence[RowSpan]) -> list[TokenSpan]:
    added = encoder(kind).added_tokens
    special = {token.id for token in added if token.special}
    return [span for span in template_tokens(text, rows, TokenFinder(added)) if span.id in special]


@each_kind
@QUICK
@given(text=TEXTS)
def test_a_text_without_row_text_is_encoded_as_by_tokenizers(kind: str, text: str) -> None:
    whole = reference(kind).encode(text, add_special_tokens=False)
    template = [] if "\u0338" in text else [template_controls(kind, text, [])]  # see the test of marks below
    for controls in (None, *template):
        encoded = encoder(kind).encode(text, controls)
        assert encoded.ids.tolist() == whole.ids
        assert encoded.starts.tolist()[1:] == [start for start, _ in whole.offsets][1:]


@pytest.mark.parametrize("kind", WITHOUT_NORMALIZER)
@QUICK
@given(text=TEXTS)
def test_the_finder_finds_what_tokenizers_finds(kind: str, text: str) -> None:
    added = encoder(kind).added_tokens
    ids = {token.id for token in added}
    whole = reference(kind).encode(text, add_special_tokens=False)
    expected = [(token, *span) for token, span in zip(whole.ids, whole.offsets, strict=True) if token in ids]
    assert [(span.id, span.start, span.end) for span in TokenFinder(added).find(text)] == expected


@each_kind
@QUICK
@given(parts=PARTS)
@example(parts=[(False, "<s>"), (True, "a <s>b<|end|>"), (False, "<|end|>"), (True, "\n  x")])
@example(parts=[(True, "<"), (False, "<s>"), (True, "fed"), (False, "<|end|>"), (True, "x<|end"), (False, "|>")])
def test_control_tokens_come_of_template_text_alone(kind: str, parts: list[tuple[bool, str]]) -> None:
    text, rows = laid_out(parts)
    controls = template_controls(kind, text, rows)
    encoded = encoder(kind).encode(text, controls)
    special = {token.id for token in encoder(kind).added_tokens if token.special}
    made = [token for token in encoded.ids.tolist() if token in special]
    normalized = {token.id for token in encoder(kind).added_tokens if token.normalized}
    assert [token for token in made if token not in normalized] == [
        span.id for span in controls if span.id not in normalized
    ]
    assert len(made) <= len(controls)
    assert all(0 <= start <= end <= len(text) for start, end in zip(encoded.starts, encoded.ends, strict=True))
    if len(encoded.ids):  # the spans tile the text
        assert encoded.starts[0] == 0
        assert encoded.ends[-1] == len(text)
        assert (encoded.starts[1:] <= np.maximum.accumulate(encoded.ends)[:-1]).all()


@QUICK
@given(parts=PARTS)
def test_what_lies_between_controls_is_what_it_is_alone(parts: list[tuple[bool, str]]) -> None:
    """Where nothing depends on the text around: letters, no normalizer. `fed` looks at its neighbours: left out."""
    text, rows = laid_out([(is_row, part.replace("fed", "f-d")) for is_row, part in parts])
    controls = template_controls("letters", text, rows)
    literal = Tokenizer.from_str(make_json("letters"))
    literal.encode_special_tokens = True
    expected, position = [], 0
    for span in controls:
        expected += [*literal.encode(text[position : span.start]).ids, span.id]
        position = span.end
    expected += literal.encode(text[position:]).ids
    assert encoder("letters").encode(text, controls).ids.tolist() == expected


# What stands between the template's <s> and <|end|> is the row's: "a <s>b", as each make of tokenizer writes it.
TYPED = {
    "letters": "<s> a \\x20 < s > b <|end|>",
    "Metaspace, prepend first": "<s> a _ < s > b <|end|>",
    "Metaspace, prepend always": "<s> _ a _ < s > b <|end|>",
    "Metaspace, prepend never": "<s> a _ < s > b <|end|>",
    "Prepend and Replace (Llama 2)": "<s> _ a _ < s > b <|end|>",
    "ByteLevel, prefix space": "<s> G a G < s > b <|end|>",
    "NFC": "<s> a \\x20 < s > b <|end|>",
    "NFKC, Lowercase": "<s> a \\x20 < s > b <|end|>",
    "Unigram with controls as pieces": "<s> a _ < s > b <|end|>",
}


@each_kind
def test_a_typed_control_token_is_text_with_the_spaces_that_the_tokenizer_adds(kind: str) -> None:
    text, rows = laid_out([(False, "<s>"), (True, "a <s>b"), (False, "<|end|>")])
    ids = encoder(kind).encode(text, template_controls(kind, text, rows)).ids.tolist()
    shown = [str(reference(kind).id_to_token(index)) for index in ids]
    names = {" ": "\\x20", "\u2581": "_", "\u0120": "G"}
    assert " ".join(names.get(token, token) for token in shown) == TYPED[kind]
    plain, plain_rows = laid_out([(False, "<s>"), (True, "a -s-b"), (False, "<|end|>")])
    served = reference(kind).encode(plain, add_special_tokens=False).ids
    assert encoder(kind).encode(plain, template_controls(kind, plain, plain_rows)).ids.tolist() == served
    assert len(served) == len(ids)  # the same spaces as around harmless text, which is encoded by the server's own call


@each_kind
def test_a_token_takes_in_the_white_space_of_the_row(kind: str) -> None:
    text, rows = laid_out([(False, "<|end|>"), (True, "\n  <s> hello \t"), (False, "<|left|>")])
    encoded = encoder(kind).encode(text, template_controls(kind, text, rows))
    assert text[encoded.starts[0] : encoded.ends[0]] == "<|end|>\n  "
    assert text[encoded.starts[-1] : encoded.ends[-1]] == " \t<|left|>"


def test_what_normalizes_to_a_control_token_is_text_as_well() -> None:
    """A server makes the control token of it."""
    kind = "NFKC, Lowercase"
    special = reference(kind).token_to_id("<N>")
    text, rows = laid_out([(False, "<N>"), (True, "a\uff1cN>b<n><N>"), (False, "<N>")])
    assert reference(kind).encode(text).ids.count(special) == 5
    assert encoder(kind).encode(text, template_controls(kind, text, rows)).ids.tolist().count(special) == 2


def test_a_mark_does_not_break_the_control_token_before_it() -> None:
    """`>` and U+0338 are one character in NFC: a server loses the token, which is `normalized`."""
    special = reference("NFC").token_to_id("<N>")
    text, rows = laid_out([(False, "<N>"), (True, "\u0338x")])
    assert special not in reference("NFC").encode(text).ids
    assert encoder("NFC").encode(text, template_controls("NFC", text, rows)).ids[0] == special


def test_a_token_that_depends_on_the_text_around_is_what_the_server_makes_of_it() -> None:
    """With a normalizer that puts a space first, a `normalized` token is one where a space stands before it."""
    kind = "Prepend and Replace (Llama 2)"
    text, rows = laid_out([(False, "<N>"), (True, "a<s>"), (False, "<N>b <N>")])
    found = template_controls(kind, text, rows)
    made = encoder(kind).encode(text, found)
    assert len(found) == 3
    special = reference(kind).token_to_id("<N>")
    harmless = reference(kind).encode(text.replace("<s>", "-s-"))
    assert made.ids.tolist().count(special) == harmless.ids.count(special) == 2
    assert len(made.ids) == len(harmless.ids)


def test_the_name_of_a_hidden_token_is_refused() -> None:
    with pytest.raises(EncodingFailed, match="noncharacters"):
        encoder("letters").encode(f"<s>{_name(0)}", [])
    assert len(encoder("letters").encode(_name(0), []).ids) == 0  # letters that the vocabulary lacks


def test_ids_that_tokenizers_would_change_are_refused() -> None:
    source = make_json("letters").replace('"id":106,', '"id":999,').replace('"id": 106,', '"id": 999,')
    assert source != make_json("letters")
    with pytest.raises(ConfigError, match="without gaps"):
        HuggingFaceEncoder(source, None)


def flagged(**flags: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.add_tokens([HuggingFaceToken("%T%", **flags)])
    return tokenizer


def test_every_character_counts_as_in_tokenizers() -> None:
    """What is a word's character, and what is white space. All characters of the planes that Unicode has begun; some
    of those that are empty, or for private use."""
    planes = chain(range(0xD800), range(0xE000, 0x40000), range(0x40000, 0xE0000, 97), range(0xE0000, 0xF0000),
                   range(0xF0000, sys.maxunicode + 1, 97))  # fmt: skip
    characters = list(map(chr, planes))
    lines = [f"{character}%T%" for character in characters]
    text = "%".join(lines)
    word = AddedToken("%T%", 1, special=True, single_word=True)
    expected = {start for (start, _), index in _pairs(flagged(single_word=True), text) if index == 1}
    found = {span.start for span in TokenFinder([word]).find(text)}
    newer = {text[start - 1] for start in expected ^ found}  # letters of another version of Unicode
    assert len(newer) < 10_000
    assert all(character > "\u0870" for character in newer)
    assert len(found) > 120_000
    spaced = AddedToken("%T%", 1, special=True, lstrip=True)
    expected = {start for (start, _), index in _pairs(flagged(lstrip=True), text) if index == 1}
    assert {span.start for span in TokenFinder([spaced]).find(text)} == expected


def _pairs(tokenizer: Tokenizer, text: str) -> list[tuple[tuple[int, int], int]]:
    encoding = tokenizer.encode(text)
    return list(zip(encoding.offsets, encoding.ids, strict=True))


RANKS = {bytes([byte]): byte for byte in range(256)}


@settings(deadline=None, derandomize=True)
@given(text=TEXTS)
def test_a_rank_file_has_the_same_added_tokens(text: str) -> None:
    """Against tokenizers with single letters: which added tokens are found, with NFC and `normalized`."""
    tokens = [AddedToken(content, 256 + n, **flags) for n, (content, flags) in enumerate(TOKENS.items())]
    ours = BytePairEncoder(RANKS, r"(?s:.)", tokens, nfc=True).encode(text, None)
    ids = {content: reference("NFC").token_to_id(content) for content in TOKENS}
    served = [index for index in reference("NFC").encode(text).ids if index in ids.values()]
    assert [ids[tokens[index - 256].content] for index in ours.ids.tolist() if index >= 256] == served
