"""Encoders: ids that the reference gives, and spans that tile the text."""

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hard_texts import HARD_TEXTS
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from model_folders import load_once
from tokenizers import AddedToken as HuggingFaceToken
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers import models, pre_tokenizers

from pipeline.config import Tokenizer
from pipeline.encoders.base import AddedToken, Encoded, Encoder, TokenFinder, TokenSpan, gaps, join_encoded
from pipeline.encoders.huggingface import HuggingFaceEncoder
from pipeline.encoders.load import load_tokenizer
from pipeline.encoders.loaded import LoadedTokenizer
from pipeline.encoders.normalization import nfc_with_origins
from pipeline.encoders.sentence_pieces import SentencePieceEncoder

MISTRAL = "package://mistral_common/data"
KINDS = {
    "llama3": {"path": "package://llama_models/llama3/tokenizer.model", "preset": "llama3"},
    "qwen": {"path": "package://dashscope/resources/qwen.tiktoken", "preset": "qwen2.5"},
    "mistral v1": {"path": f"{MISTRAL}/tokenizer.model.v1"},
    "mistral v3": {"path": f"{MISTRAL}/mistral_instruct_tokenizer_240323.model.v3"},
    "tekken": {"path": f"{MISTRAL}/tekken_240911.json"},
}
NAMES = [*KINDS, "qwen folder", "llama folder"]

TEXTS = (
    st.sampled_from(HARD_TEXTS) | st.text(max_size=30) | st.lists(st.sampled_from(HARD_TEXTS), max_size=3).map("".join)
)
LOADED: dict[str, LoadedTokenizer] = {}


@pytest.fixture(params=NAMES)
def loaded(request: pytest.FixtureRequest) -> LoadedTokenizer:
    return load(request, request.param)


@pytest.fixture
def encoder(loaded: LoadedTokenizer) -> Encoder:
    return loaded.encoder


def load(request: pytest.FixtureRequest, name: str) -> LoadedTokenizer:
    if name not in LOADED:
        fixture = name.replace(" ", "_")
        config = KINDS[name] if name in KINDS else {"path": str(request.getfixturevalue(fixture))}
        LOADED[name] = load_once(**config)
    return LOADED[name]


def check_tiles(text: str, encoded: Encoded) -> None:
    """Every character is in a span, spans go on where they stopped or overlap, and none is empty or outside."""
    starts, ends = encoded.starts.tolist(), encoded.ends.tolist()
    assert len(encoded.ids) == len(starts) == len(ends)
    assert starts == sorted(starts)
    assert ends == sorted(ends)
    assert all(0 <= start <= end <= len(text) for start, end in zip(starts, ends, strict=True))
    covered = np.zeros(len(text), np.bool_)
    for start, end in zip(starts, ends, strict=True):
        covered[start:end] = True
    assert covered.all()


def special_ids(encoder: Encoder) -> set[int]:
    return {token.id for token in encoder.added_tokens if token.special}


QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUICK
@given(text=TEXTS)
def test_spans_tile_the_text(encoder: Encoder, text: str) -> None:
    encoded = encoder.encode(text, [])
    check_tiles(text, encoded)
    assert (encoded.ids.dtype, encoded.starts.dtype, encoded.ends.dtype) == (np.int32, np.int32, np.int32)
    assert all(0 <= token < encoder.vocab_size for token in encoded.ids.tolist())


@pytest.mark.parametrize("text", HARD_TEXTS, ids=range(len(HARD_TEXTS)))
def test_hard_texts_tile_and_come_back(loaded: LoadedTokenizer, text: str) -> None:
    encoded = loaded.encoder.encode(text, [])
    check_tiles(text, encoded)
    assert not special_ids(loaded.encoder) & set(encoded.ids.tolist())
    if loaded.kind != "sentencepiece":
        decoded = loaded.encoder.decode(encoded.ids.tolist())
        assert unicodedata.normalize("NFC", decoded) == unicodedata.normalize("NFC", text)


@QUICK
@given(text=TEXTS)
def test_decoding_gives_the_text_up_to_nfc(encoder: Encoder, text: str) -> None:
    decoded = encoder.decode(encoder.encode(text, []).ids.tolist())
    if isinstance(
        encoder, SentencePieceEncoder
    ):  # its models normalize to NFKC or not at all, and write U+2581 for a space
        decoded, text = decoded.replace("\u2581", " "), text.replace("\u2581", " ")
    assert unicodedata.normalize("NFC", decoded) == unicodedata.normalize("NFC", text)


@QUICK
@given(text=TEXTS)
def test_the_characters_of_a_span_are_those_of_its_id(encoder: Encoder, text: str) -> None:
    """Wherever an id decodes to whole characters, they are those under its span."""
    normalized = unicodedata.normalize("NFC", text)
    if normalized != text or "\u2581" in text or isinstance(encoder, SentencePieceEncoder):
        return
    encoded = encoder.encode(text, [])
    for token, start, end in zip(encoded.ids.tolist(), encoded.starts, encoded.ends, strict=True):
        decoded = encoder.decode([token])
        if "\ufffd" not in decoded:
            assert decoded == text[start:end]


@QUICK
@given(parts=st.lists(TEXTS, min_size=2, max_size=4), data=st.data())
def test_control_ids_come_out_where_the_caller_says_and_nowhere_else(
    encoder: Encoder, parts: list[str], data: st.DataObject
) -> None:
    specials = [token for token in encoder.added_tokens if token.special][:40]
    text, controls = parts[0], []
    for part in parts[1:]:
        token = data.draw(st.sampled_from(specials))
        span = slice(len(text), len(text) + len(token.content))
        controls.append(TokenSpan(span.start, span.stop, token.id, span))
        text += token.content + part
    encoded = encoder.encode(text, controls)
    check_tiles(text, encoded)
    special = special_ids(encoder)
    spans = zip(encoded.ids.tolist(), encoded.starts.tolist(), encoded.ends.tolist(), strict=True)
    found = [span for span in spans if span[0] in special]
    assert found == [(control.id, control.start, control.end) for control in controls]


@pytest.mark.parametrize("text", HARD_TEXTS, ids=range(len(HARD_TEXTS)))
def test_a_document_has_controls_at_its_borders_alone(loaded: LoadedTokenizer, text: str) -> None:
    ids = loaded.encoder.encode_document(text).tolist()
    bos, eos = loaded.token_id("bos_token"), loaded.token_id("eos_token")
    if eos is not None:
        assert ids.pop() == eos
    if ids and ids[0] == bos:
        ids.pop(0)
    assert not special_ids(loaded.encoder) & set(ids)


PAIRS = [("qwen", "qwen folder"), ("llama3", "llama folder")]


@pytest.mark.parametrize("names", PAIRS, ids=["qwen", "llama3"])
@QUICK
@given(text=TEXTS)
@example(text="".join(HARD_TEXTS))
def test_both_engines_give_the_same_ids(request: pytest.FixtureRequest, names: tuple[str, str], text: str) -> None:
    ours, reference = (load(request, name).encoder.encode(text, []) for name in names)
    assert ours.ids.tolist() == reference.ids.tolist()
    if unicodedata.is_normalized("NFC", text):
        assert ours.starts.tolist() == reference.starts.tolist()
        assert ours.ends.tolist() == reference.ends.tolist()


@pytest.mark.parametrize("names", PAIRS, ids=["qwen", "llama3"])
@pytest.mark.parametrize("text", HARD_TEXTS, ids=range(len(HARD_TEXTS)))
def test_both_engines_agree_on_hard_texts(request: pytest.FixtureRequest, names: tuple[str, str], text: str) -> None:
    ours, reference = (load(request, name).encoder.encode(text, []).ids.tolist() for name in names)
    assert ours == reference


@given(st.text() | TEXTS)
@example("".join(HARD_TEXTS))
@example("q\u0323\u0f73")  # class 0, and yet its decomposition begins with a mark that is put in order
def test_nfc_with_origins(text: str) -> None:
    normalized, origins = nfc_with_origins(text)
    assert normalized == unicodedata.normalize("NFC", text)
    assert len(origins) == len(normalized)
    places = origins.tolist()
    assert places == sorted(places)
    assert not places or (places[0] == 0 and places[-1] < len(text))
    # The stretch between two origins is what became the characters that share the first of them.
    for start, end in pairwise([*sorted(set(places)), len(text)]):
        made = "".join(character for place, character in zip(places, normalized, strict=True) if place == start)
        assert made == unicodedata.normalize("NFC", text[start:end])


def test_every_character_keeps_its_nfc() -> None:
    for first in range(0, 0x3000, 0x80):
        text = "".join(map(chr, range(first, first + 0x80)))
        for between in ("", "a", "\u0301", "q\u0323"):
            mixed = between.join(text)
            assert nfc_with_origins(mixed)[0] == unicodedata.normalize("NFC", mixed)


CONTENTS = ["<a>", "<a>b", "<", "ab", "b", "<<", ">", "a b"]
TOKENS = st.lists(
    st.builds(AddedToken, st.sampled_from(CONTENTS), st.just(0), st.booleans(), *[st.booleans()] * 3),
    max_size=5,
    unique_by=lambda token: token.content,
).map(
    lambda tokens: [
        AddedToken(t.content, n, t.special, t.lstrip, t.rstrip, t.single_word) for n, t in enumerate(tokens)
    ]
)
MARKED = st.text("<>ab \n", max_size=14)


def slow_find(tokens: Sequence[AddedToken], text: str) -> Iterator[TokenSpan]:
    """At each place the longest token that stands there; refused inside a word; then the white space around it."""
    at, floor = 0, 0
    while at < len(text):
        standing = [token for token in tokens if text[at : at + len(token.content)] == token.content]
        if not standing:
            at += 1
            continue
        token = max(standing, key=lambda candidate: len(candidate.content))
        start, end = at, at + len(token.content)
        at = end
        if token.single_word and (text[start - 1 : start].isalnum() or text[end : end + 1].isalnum()):
            continue
        content = slice(start, end)
        while token.lstrip and start > floor and text[start - 1].isspace():
            start -= 1
        while token.rstrip and end < len(text) and text[end].isspace():
            end += 1
        floor = end
        yield TokenSpan(start, end, token.id, content)


@given(TOKENS, MARKED)
def test_the_finder_is_the_slow_one(tokens: list[AddedToken], text: str) -> None:
    assert list(TokenFinder(tokens).find(text)) == list(slow_find(tokens, text))


@given(TOKENS, MARKED)
def test_found_spans_do_not_overlap(tokens: list[AddedToken], text: str) -> None:
    spans = list(TokenFinder(tokens).find(text))
    assert all(before.end <= after.start for before, after in pairwise(spans))
    assert all(start <= end for start, end in gaps(len(text), spans))


def test_joining_moves_the_spans_of_pieces() -> None:
    control = TokenSpan(2, 5, 9, slice(3, 4))
    piece = Encoded(*(np.array(values, np.int32) for values in ([7], [0], [2])))
    joined = join_encoded(7, [control], [piece, piece])
    assert joined.ids.tolist() == [7, 9, 7]
    assert joined.starts.tolist() == [0, 2, 5]
    assert joined.ends.tolist() == [2, 5, 7]


Flags = Mapping[str, bool]
FLAGS = st.fixed_dictionaries({name: st.booleans() for name in ("lstrip", "rstrip", "single_word", "special")})
PLAIN = {"lstrip": False, "rstrip": False, "single_word": False, "special": True}


def synthetic_json(flags: Sequence[Flags]) -> str:
    """A tokenizer of letters and three added tokens with these flags."""
    letters = {character: number for number, character in enumerate("abcdefgh<>/ \n\t._")}
    tokenizer = HuggingFaceTokenizer(models.BPE(vocab=letters, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    for content, entry in zip(("<a>", "</a>", "fed"), flags, strict=True):
        tokenizer.add_tokens([HuggingFaceToken(content, normalized=False, **entry)])
    return str(tokenizer.to_str())


PIECES = st.lists(st.sampled_from(["<a>", "</a>", "fed", " ", "\n", "\t", "a", "b.", "_", "  "]), max_size=8).map(
    "".join
)


@settings(deadline=None)
@given(st.tuples(FLAGS, FLAGS, FLAGS), PIECES)
@example((PLAIN | {"rstrip": True}, PLAIN | {"lstrip": True}, PLAIN), "a <a> \n b </a> c")
@example((PLAIN, PLAIN, PLAIN | {"single_word": True}), "fed fedfed afed.fed")
def test_added_tokens_behave_as_in_the_whole_text(flags: tuple[Flags, ...], text: str) -> None:
    source = synthetic_json(flags)
    encoder = HuggingFaceEncoder(source, None)
    controls = list(TokenFinder(token for token in encoder.added_tokens if token.special).find(text))
    encoded = encoder.encode(text, controls)
    whole = HuggingFaceTokenizer.from_str(source).encode(text, add_special_tokens=False)
    assert encoded.ids.tolist() == whole.ids
    assert list(zip(encoded.starts.tolist(), encoded.ends.tolist(), strict=True)) == whole.offsets


@settings(deadline=None)
@given(st.tuples(FLAGS, FLAGS, FLAGS), PIECES)
def test_pieces_between_controls_are_encoded_as_in_the_whole(flags: tuple[Flags, ...], text: str) -> None:
    """The other path, where the caller leaves out a control: the rest stays as it was in the whole text."""
    encoder = HuggingFaceEncoder(synthetic_json(flags), None)
    controls = list(TokenFinder(token for token in encoder.added_tokens if token.special).find(text))
    encoded = encoder.encode(text, controls[1:])
    special = special_ids(encoder)
    assert [token for token in encoded.ids.tolist() if token in special] == [span.id for span in controls[1:]]
    check_tiles(text, encoded)


def test_a_folder_without_a_tokenizer_json_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>"}))
    with pytest.raises(ValueError, match=r"has no tokenizer\.json"):
        load_tokenizer(Tokenizer(path=str(tmp_path)))


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"path": "package://dashscope/resources/qwen.tiktoken"}, "bare rank file"),
        ({"path": "package://dashscope/resources/qwen.tiktoken", "preset": "qwen9"}, "is unknown"),
        ({"path": "package://dashscope/resources/qwen.tiktoken", "preset": "qwen2.5", "pad_token": "<x>"}, "none of"),
        ({"path": "package://no_such_package/file"}, "is installed"),
        ({"path": "gone/tokenizer.model"}, "does not exist"),
        ({"path": __file__}, "is neither"),
    ],
)
def test_what_cannot_be_loaded_is_refused(settings_: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_tokenizer(Tokenizer(**settings_))
