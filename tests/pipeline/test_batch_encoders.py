"""Batches of plain texts: the reference gives what it gives text by text, and the fast engine gives the same."""

import json
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import TOKENIZERS
from hypothesis import given, settings
from hypothesis import strategies as st
from model_folders import load_once
from synthetic_tokenizers import KINDS, make_json

from pipeline.encoders import gigatoken_engine
from pipeline.encoders.base import Encoder, EncodingFailed
from pipeline.encoders.batch import BatchEncoder, EncodedBatch, Strings
from pipeline.encoders.byte_level import byte_level_json
from pipeline.encoders.engines import FastBatches, make_batch_encoder
from pipeline.encoders.gigatoken_engine import GigatokenBatches
from pipeline.encoders.hard_texts import hard_texts
from pipeline.encoders.huggingface import HuggingFaceEncoder
from pipeline.encoders.unassigned import assigned, find_unassigned

each_tokenizer = pytest.mark.parametrize("name", TOKENIZERS)
CHARACTERS = st.characters(exclude_categories=["Cs"])
PIECES = st.sampled_from(
    [" ", "\n", "\r\n", "'ll", "a", "word", "12", "\u0301", "\U0001f600", "\u4f60", "<|im_end|>", "]"]
)
TEXTS = st.lists(PIECES | CHARACTERS | st.text(max_size=8), max_size=12).map("".join)


def encoder_of(name: str) -> Encoder:
    return TOKENIZERS[name]().encoder


def reference_of(encoder: Encoder) -> BatchEncoder:
    found = encoder.batch()
    assert found is not None
    return found


def fast_of(encoder: Encoder) -> BatchEncoder:
    found = make_batch_encoder("gigatoken", encoder)
    assert found is not None
    return found


def split(batch: EncodedBatch) -> list[list[int]]:
    assert batch.ids.dtype == np.int32
    assert batch.offsets.dtype == np.int64
    return [part.tolist() for part in np.split(batch.ids, batch.offsets[1:-1])] if len(batch.offsets) > 1 else []


def normalized(encoder: Encoder, texts: Sequence[str]) -> list[str]:
    return [unicodedata.normalize(encoder.normal_form, text) if encoder.normal_form else text for text in texts]


@each_tokenizer
def test_the_reference_gives_what_it_gives_text_by_text(name: str) -> None:
    encoder = encoder_of(name)
    texts = list(hard_texts([], encoder.normal_form))
    plain = [token.content for token in encoder.added_tokens if not token.special]
    texts = [text for text in texts if not any(content in text for content in plain)]
    assert len(texts) > 2000
    batch = reference_of(encoder)
    found = split(batch.encode(Strings.of(texts)))
    assert found == [encoder.encode(text, []).ids.tolist() for text in texts]
    assert [batch.sizes[ids].sum() for ids in found] == [len(text.encode()) for text in texts]
    assert len(batch.sizes) == encoder.vocab_size
    assert not batch.sizes[[token.id for token in encoder.added_tokens]].any()


@each_tokenizer
def test_added_tokens_are_plain_text_to_both(name: str) -> None:
    encoder = encoder_of(name)
    contents = [token.content for token in encoder.added_tokens]
    ids = {token.id for token in encoder.added_tokens}
    assert contents
    for batch in (reference_of(encoder), fast_of(encoder)):
        found = batch.encode(Strings.of([*contents, *(f"a {content}\n" for content in contents)]))
        assert ids.isdisjoint(found.ids.tolist())


@each_tokenizer
def test_fast_is_the_reference_on_hard_texts(name: str) -> None:
    encoder = encoder_of(name)
    contents = [token.content for token in encoder.added_tokens]
    texts = Strings.of(hard_texts(contents, encoder.normal_form))
    reference, fast = reference_of(encoder), fast_of(encoder)
    assert split(fast.encode(texts)) == split(reference.encode(texts))
    assert (fast.sizes == reference.sizes).all()


@each_tokenizer
def test_fast_is_the_reference_on_any_text(name: str) -> None:
    encoder = encoder_of(name)
    reference, fast = reference_of(encoder), fast_of(encoder)

    @settings(max_examples=150, deadline=None)
    @given(st.lists(TEXTS, max_size=6))
    def holds(texts: list[str]) -> None:
        strings = Strings.of(normalized(encoder, texts))
        assert split(fast.encode(strings)) == split(reference.encode(strings))

    holds()


def _strings_in(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for child in children for text in _strings_in(child)]


@each_tokenizer
def test_fast_is_the_reference_on_real_rows(name: str, shared_data: Path) -> None:
    encoder = encoder_of(name)
    rows = [json.loads(line) for line in (shared_data / "c4_demo.jsonl").read_text("utf-8").splitlines()[:200]]
    rows += json.loads((shared_data / "glaive_toolcall_en_demo.json").read_text("utf-8"))[:200]
    texts = normalized(encoder, _strings_in(rows))
    assert sum(map(len, texts)) > 500_000
    strings = Strings.of(texts)
    assert split(fast_of(encoder).encode(strings)) == split(reference_of(encoder).encode(strings))


def test_a_tokenizer_json_of_ranks_is_what_tiktoken_makes() -> None:
    """The third way to the same ids: `tokenizers` with every split of every token as a merge."""
    encoder = encoder_of("Llama 3")
    document = byte_level_json(encoder.ranks, encoder.pattern)
    third = reference_of(HuggingFaceEncoder(document.decode(), None))
    texts = Strings.of(hard_texts([], None))
    assert split(third.encode(texts)) == split(reference_of(encoder).encode(texts))


@pytest.mark.parametrize("kind", KINDS)
def test_other_tokenizers_have_no_batches(kind: str) -> None:
    encoder = HuggingFaceEncoder(make_json(kind), None)
    assert encoder.batch() is None
    assert encoder.normal_form is None
    assert load_once("package://mistral_common/data/tokenizer.model.v1").encoder.batch() is None


def test_a_control_token_of_the_vocabulary_does_not_come_out() -> None:
    """A model that looks whole words up would make it of the word itself."""
    document = json.loads(
        byte_level_json({bytes([byte]): byte for byte in range(256)} | {b"ab": 256, b"stop": 257}, "")
    )
    document["pre_tokenizer"] = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "use_regex": True,
        "trim_offsets": True,
    }
    token = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    document["added_tokens"] = [{"id": 257, "content": "stop", **token}]
    encoder = HuggingFaceEncoder(json.dumps(document), None)
    assert encoder.encode("stop", None).ids.tolist() == [257]
    expected = [256, *b"stop", 256]
    for batch in (reference_of(encoder), fast_of(encoder)):
        assert batch.encode(Strings.of(["ab", "stop", "ab"])).ids.tolist() == expected
        assert batch.sizes[257] == 0


@pytest.mark.parametrize("size", [1, 50, 10**6])
def test_slices_change_nothing(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gigatoken_engine, "SLICE_BYTES", size)
    encoder = encoder_of("Qwen 2.5")
    texts = ["", "one two", "", "three" * 20, "\u4f60\u597d", "", "x"]
    strings = Strings.of(["before", *texts])
    later = Strings(strings.data, strings.offsets[1:])  # offsets need not begin at 0
    assert split(fast_of(encoder).encode(later)) == split(reference_of(encoder).encode(Strings.of(texts)))


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_nothing_to_encode(texts: list[str]) -> None:
    encoder = encoder_of("Qwen 2.5")
    for batch in (reference_of(encoder), fast_of(encoder)):
        found = batch.encode(Strings.of(texts))
        assert found.offsets.tolist() == [0] * (len(texts) + 1)
        assert split(found) == [[] for _ in texts]


def test_an_encoder_that_has_grown_is_built_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    resident = iter(range(0, 10**12, 100 * 2**20))  # each slice takes 100 MiB
    monkeypatch.setattr(gigatoken_engine, "_resident", lambda: next(resident))
    built: list[int] = []

    class Backend:
        def encode_batch(self, array: Any, *, parallel: bool) -> Any:
            return real._backend.encode_batch(array, parallel=parallel)

    encoder = encoder_of("Qwen 2.5")
    real = gigatoken_engine.make_engine(encoder)
    texts = Strings.of(["some text"])
    expected = split(real.encode(texts))
    engine = GigatokenBatches(lambda: built.append(1) or Backend(), real.sizes)
    for times in (1, 1, 1, 2, 2, 2, 3):
        assert split(engine.encode(texts)) == expected
        assert len(built) == times


class PanicException(BaseException):
    """As pyo3 calls what a panic of Rust becomes."""


@pytest.mark.parametrize("error", [PanicException("index out of bounds"), RuntimeError("no"), ValueError("no")])
def test_a_panic_is_a_failed_encoding(error: BaseException) -> None:
    class Backend:
        def encode_batch(self, array: Any, *, parallel: bool) -> Any:
            raise error

    engine = GigatokenBatches(Backend, np.zeros(1, np.int64))
    with pytest.raises(EncodingFailed, match="gave up on 1 texts"):
        engine.encode(Strings.of(["a"]))


def test_an_interrupt_is_none() -> None:
    class Backend:
        def encode_batch(self, array: Any, *, parallel: bool) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        GigatokenBatches(Backend, np.zeros(1, np.int64)).encode(Strings.of(["a"]))


@pytest.mark.skipif(unicodedata.unidata_version != "14.0.0", reason="another version of Unicode")
def test_the_table_is_that_of_unicode_14() -> None:
    categories = [unicodedata.category(chr(code)) for code in range(sys.maxunicode + 1)]
    assert assigned().tolist() == [category != "Cn" for category in categories]


@given(st.lists(st.text(CHARACTERS, max_size=5), max_size=8), st.integers(0, 3))
def test_texts_with_younger_characters_are_found(texts: list[str], before: int) -> None:
    strings = Strings.of([*"\u0378" * before, *texts])
    later = Strings(strings.data, strings.offsets[before:])
    table = assigned()
    assert find_unassigned(later).tolist() == [
        i for i, text in enumerate(texts) if not table[list(map(ord, text))].all()
    ]


def test_younger_characters_go_to_the_reference() -> None:
    class Other:
        """Another id for each text, so that it shows who encoded it."""

        name, sizes = "other", np.zeros(1, np.int64)

        def __init__(self, number: int) -> None:
            self.number = number

        def encode(self, texts: Strings) -> EncodedBatch:
            lengths = [len(text) for text in texts]
            ids = np.full(sum(lengths), self.number, np.int32)
            return EncodedBatch(ids, np.cumsum([0, *lengths], dtype=np.int64))

    engine = FastBatches(Other(1), lambda: Other(2))
    texts = ["\u0378", "ab", "", "a\u0378", "\u0379b", "c"]
    assert split(engine.encode(Strings.of(texts))) == [[2], [1, 1], [], [2, 2], [2, 2], [1]]
    assert split(engine.encode(Strings.of(["a", "bc"]))) == [[1], [1, 1]]
