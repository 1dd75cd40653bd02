"""What goes through a coder comes out equal in every field and type, and Beam encodes nothing inside a fused stage."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from datetime import date
from typing import Any, TypeVar

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import Phase, example, find, given, settings
from hypothesis import strategies as st

from pipeline.assemble import PackedBlock
from pipeline.block_info import BlockInfo
from pipeline.blocks import BlockKey, DocumentBlock, RowBlock, Sample
from pipeline.coders import (
    LARGEST,
    BlockInfoCoder,
    DocumentBlockCoder,
    PackedBlockCoder,
    RowBlockCoder,
    TokenBlockCoder,
    register_coders,
)
from pipeline.encoders.compare import EngineDifference
from pipeline.readers.table_rows import TableRows
from pipeline.token_block import TokenBlock
from pipeline.turns import OpenTurn, TurnAudit
from schemas.conversation import MESSAGE_ROLES, Conversation, Document, Message, TextDocument, ToolCall
from schemas.manifest import Certificate, Difference, RejectFile, ShardFile, TurnCounts
from schemas.rejects import Reason, Reject
from schemas.shard import Packs

Entry = TypeVar("Entry")
Arrays = st.SearchStrategy[npt.NDArray[Any]]

SHA = st.just("0123456789abcdef" * 4)
COUNTS = st.integers(0, 2**63 - 1)
IDS = st.lists(st.integers(0, 2**31 - 1), max_size=2)
SOURCES = st.integers(0, 2**31 - 1)
TEXTS = st.text(max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=4,
)
OBJECTS = st.dictionaries(TEXTS, JSON, max_size=3)
KEYS = st.builds(BlockKey, COUNTS, COUNTS, st.booleans())
REJECTS = st.lists(st.builds(Reject, SOURCES, COUNTS, st.sampled_from(Reason), TEXTS), max_size=3)
ROWS = st.dictionaries(SOURCES, COUNTS, max_size=3)
TOKEN_IDS = IDS.map(tuple)
AUDITS = st.builds(
    TurnAudit,
    counts=st.dictionaries(SOURCES.map(str), st.builds(TurnCounts, **dict.fromkeys(TurnCounts.model_fields, COUNTS))),
    open_turns=st.lists(
        st.builds(
            OpenTurn,
            source=COUNTS,
            position=COUNTS,
            message=COUNTS,
            trained_ids=TOKEN_IDS,
            following_ids=TOKEN_IDS,
        ),
        max_size=2,
    ).map(tuple),
)

CALLS = st.builds(ToolCall, TEXTS, TEXTS, st.none() | TEXTS)
MESSAGES = st.builds(
    Message,
    role=st.sampled_from(MESSAGE_ROLES),
    content=st.none() | TEXTS,
    reasoning_content=st.none() | TEXTS,
    tool_calls=st.lists(CALLS, max_size=2).map(tuple),
    tool_call_id=st.none() | TEXTS,
    name=st.none() | TEXTS,
    train=st.none() | st.booleans(),
    weight=st.none() | st.floats() | st.integers(0, 1),
    spans=st.none() | st.lists(st.tuples(COUNTS, COUNTS), max_size=2).map(tuple),
    extra=OBJECTS,
)
CONVERSATIONS = st.builds(Conversation, st.lists(MESSAGES, max_size=3).map(tuple), *[st.none() | TEXTS] * 3)
DOCUMENTS: st.SearchStrategy[Document] = CONVERSATIONS | st.builds(TextDocument, TEXTS)


def array(dtype: type[np.generic], *shape: int) -> Arrays:
    """Any bytes at all, so that floats have every kind of NaN."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return st.binary(min_size=size, max_size=size).map(lambda data: np.frombuffer(data, dtype).reshape(shape))


@st.composite
def filled(draw: st.DrawFn, make: Callable[..., Entry], name: str, values: st.SearchStrategy[Any]) -> Entry:
    """A RowBlock or a DocumentBlock: parallel lists."""
    entries = draw(st.lists(st.tuples(SOURCES, COUNTS, values), max_size=4))
    sources, positions, drawn = map(list, zip(*entries, strict=True)) if entries else ([], [], [])
    lists = {"sources": sources, "positions": positions, name: drawn}
    return make(draw(KEYS), rejects=draw(REJECTS), bytes=draw(COUNTS), **lists)


DIFFERENCES = st.builds(Difference, source=COUNTS, position=COUNTS, index=COUNTS, expected=IDS, found=IDS)
CERTIFICATES = st.none() | st.builds(
    Certificate,
    oracle=st.just("transformers"),
    level=st.sampled_from(["ids", "text"]),
    versions=st.dictionaries(TEXTS, TEXTS),
    compared=COUNTS,
    first_difference=st.none() | DIFFERENCES,
)
ENGINE_DIFFERENCES = st.none() | st.builds(
    EngineDifference,
    source=COUNTS,
    position=COUNTS,
    text=TEXTS,
    expected_ids=TOKEN_IDS,
    found_ids=TOKEN_IDS,
)
SAMPLES = st.lists(st.builds(Sample, COUNTS, COUNTS, st.none() | OBJECTS), max_size=3)


@st.composite
def document_blocks(draw: st.DrawFn) -> DocumentBlock:
    block = draw(filled(DocumentBlock, "documents", DOCUMENTS))
    block.samples = draw(SAMPLES)
    return block


@st.composite
def token_blocks(draw: st.DrawFn) -> TokenBlock:
    tokens, documents = draw(st.integers(0, 9)), draw(st.integers(0, 4))
    return TokenBlock(
        key=draw(KEYS),
        input_ids=draw(array(np.int32, tokens)),
        channel=draw(array(np.uint8, tokens)),
        weight=draw(st.none() | array(np.float32, tokens)),
        starts=draw(array(np.int64, documents)),
        lengths=draw(array(np.int64, documents)),
        sources=draw(array(np.int32, documents)),
        positions=draw(array(np.int64, documents)),
        pieces=draw(array(np.int32, documents)),
        rejects=draw(REJECTS),
        rows=draw(ROWS),
        bytes=draw(COUNTS),
        truncated=draw(COUNTS),
        straddling=draw(COUNTS),
        turns=draw(AUDITS),
        certificate=draw(CERTIFICATES),
        difference=draw(ENGINE_DIFFERENCES),
    )


@st.composite
def some_packs(draw: st.DrawFn) -> Packs:
    packs, seq_len, documents = draw(st.integers(0, 3)), draw(st.integers(1, 5)), draw(st.integers(0, 4))
    return Packs(
        input_ids=draw(array(np.int32, packs, seq_len)),
        channel=draw(array(np.uint8, packs, seq_len)),
        doc_offsets=draw(array(np.int32, packs + 1)),
        doc_lengths=draw(array(np.int32, documents)),
        doc_source=draw(array(np.int32, documents)),
        doc_position=draw(array(np.int64, documents)),
        doc_piece=draw(array(np.int32, documents)),
        weight=draw(st.none() | array(np.float32, packs, seq_len)),
    )


ROW_BLOCKS = filled(RowBlock, "rows", OBJECTS)
DOCUMENT_BLOCKS = document_blocks()
PACKED_BLOCKS = st.builds(
    PackedBlock,
    key=KEYS,
    packs=st.none() | some_packs(),
    holdout=st.none() | some_packs(),
    rejects=REJECTS,
    rows=ROWS,
    bytes=COUNTS,
    truncated=COUNTS,
    straddling=COUNTS,
    turns=AUDITS,
    certificate=CERTIFICATES,
    difference=ENGINE_DIFFERENCES,
)
FILES = st.none() | st.builds(
    ShardFile, name=st.just("shards/a.arrow"), bytes=COUNTS, sha256=SHA, packs=COUNTS, documents=COUNTS, tokens=COUNTS
)
REJECT_FILES = st.none() | st.builds(RejectFile, name=st.just("rejects/a.jsonl"), bytes=COUNTS, sha256=SHA, rows=COUNTS)
HISTOGRAMS = st.dictionaries(st.sampled_from(["0", "5", "11"]), COUNTS)
BY_SOURCE = st.sampled_from(["0", "1", "12"])
BLOCK_INFOS = st.builds(
    BlockInfo,
    unit=COUNTS,
    block=COUNTS,
    last=st.booleans(),
    unit_sha256=SHA,
    input_bytes=COUNTS,
    rows=st.dictionaries(BY_SOURCE, COUNTS),
    rejects=st.dictionaries(st.sampled_from(Reason), COUNTS, max_size=3),
    channels=st.dictionaries(BY_SOURCE, HISTOGRAMS),
    holdout_channels=HISTOGRAMS,
    truncated=COUNTS,
    straddling=COUNTS,
    turns=AUDITS,
    certificate=CERTIFICATES,
    difference=ENGINE_DIFFERENCES,
    shard=FILES,
    holdout=FILES,
    reject_file=REJECT_FILES,
)


def same(one: Any, other: Any) -> bool:
    """Equal in types, in the order of keys and in the bits of floats."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    if is_dataclass(one):
        return all(same(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return repr(one) == repr(other)
    return bool(one == other)


def test_rows_of_a_table_arrive_as_rows() -> None:
    rows = TableRows([pa.record_batch({"text": ["a", None], "when": pa.array([date(2024, 5, 6)] * 2)})])
    decoded = RowBlockCoder().decode(RowBlockCoder().encode(RowBlock(KEY, [0, 0], [0, 1], rows)))
    assert decoded.rows == [{"text": "a", "when": "2024-05-06"}, {"text": None, "when": "2024-05-06"}]


def test_same_tells_apart_what_equality_does_not() -> None:
    ids = np.zeros(2, np.int32)
    assert same(float("nan"), float("nan"))
    assert not same(0.0, -0.0)
    assert not same(1, True)
    assert not same((1,), [1])
    assert not same({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert not same({0: 1}, {"0": 1})
    assert not same(ids, ids.astype(np.int64))
    assert not same(ids, ids.reshape(2, 1))
    assert not same(Message("user", weight=1.0), Message("user", weight=1))
    assert not same(Reject(0, 0, Reason.EMPTY, ""), Reject(0, 0, Reason.EMPTY, " "))


CODERS: dict[str, Any] = {
    "rows": RowBlockCoder(),
    "documents": DocumentBlockCoder(),
    "tokens": TokenBlockCoder(),
    "packs": PackedBlockCoder(),
    "info": BlockInfoCoder(),
}
BLOCKS: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], bool]]] = {
    "rows": (ROW_BLOCKS, lambda block: len(block.rows) > 1 and any(block.rows) and len(block.rejects) > 0),
    "documents": (DOCUMENT_BLOCKS, lambda block: any(map(has_call, block.documents)) and len(block.samples) > 1),
    "tokens": (
        token_blocks(),
        lambda block: block.weight is not None and len(block) > 1 and bool(block.certificate and block.difference),
    ),
    "packs": (PACKED_BLOCKS, lambda block: bool(block.packs or block.holdout)),
    "info": (BLOCK_INFOS, lambda info: info.shard is not None and len(info.rejects) > 0),
}
"""Blocks of each type, and whether one of them is far from trivial."""

every_coder = pytest.mark.parametrize("name", CODERS)


def has_call(document: Document) -> bool:
    return isinstance(document, Conversation) and any(message.tool_calls for message in document.messages)


FOUND_AS_IT_IS = settings(max_examples=5000, derandomize=True, phases=[Phase.generate])


@every_coder
def test_blocks_come_back_as_they_were(name: str) -> None:
    coder, (blocks, is_rich) = CODERS[name], BLOCKS[name]

    @given(blocks)
    @example(find(blocks, is_rich, settings=FOUND_AS_IT_IS))  # not only trivial ones
    def come_back(block: Any) -> None:
        assert same(coder.decode(coder.encode(block)), block)

    come_back()


def full_packs(seq_len: int, weight: bool) -> Packs:
    documents = np.arange(3, dtype=np.int32)
    tokens = np.arange(2 * seq_len, dtype=np.int32).reshape(2, seq_len)
    return Packs(
        input_ids=tokens,
        channel=tokens.astype(np.uint8),
        doc_offsets=documents,
        doc_lengths=documents + 1,
        doc_source=documents + 2,
        doc_position=documents.astype(np.int64) + 2**40,
        doc_piece=documents + 4,
        weight=tokens.astype(np.float32) / np.float32(3) if weight else None,
    )


KEY = BlockKey(3, 1, True)
ENGINE_DIFFERENCE = EngineDifference(source=1, position=2**40, text="'x'", expected_ids=(1, 2), found_ids=())
CERTIFICATE = Certificate(
    oracle="transformers",
    level="ids",
    versions={"transformers": "5.0"},
    compared=2,
    passed=1,
    with_control_text=1,
    not_comparable=3,
    first_difference=Difference(source=1, position=2**40, index=3, expected=[1, 2], found=[]),
)
SAMPLES_OF_TWO = [Sample(7, 2**40, {"messages": [{"content": "\u20ac"}], "tools": None}), Sample(8, 0, None)]
FACTS: dict[str, Any] = {"key": KEY, "rejects": [Reject(7, 2**40, Reason.TOO_LONG, "\u20ac")], "bytes": 2**41}
TURNS = TurnAudit(
    counts={"10": TurnCounts(trained=7, terminated=6, reasoning_dropped=5, not_served=4, cut=3), "9": TurnCounts()},
    open_turns=(OpenTurn(source=10, position=2**40, message=3, trained_ids=(1, 2), following_ids=()),),
)
COUNTED: dict[str, Any] = {
    **FACTS,
    "rows": {10: 4, 9: 1},
    "truncated": 5,
    "straddling": 6,
    "turns": TURNS,
    "certificate": CERTIFICATE,
    "difference": ENGINE_DIFFERENCE,
}
FULL_MESSAGE = Message(
    "assistant",
    "a",
    "b",
    (ToolCall("f", "{}", "c"),),
    "d",
    "e",
    True,
    0.1,
    ((0, 1),),
    {"text": [None, 2**64 - 1, {"": -(2**63)}]},
)
FULL_DOCUMENTS: list[Document] = [
    Conversation((FULL_MESSAGE, Message("user")), "[]", "[{}]", "{}"),
    TextDocument("\u00e4\U0001f600\n\0"),
]
IDS = np.arange(5, dtype=np.int32)
EXAMPLES: dict[str, Any] = {  # not made anew: a shuffle must give others, a fused step the very same
    "rows": RowBlock(**FACTS, sources=[7, 8], positions=[0, 2**40], rows=[{"messages": [{"x": 0.1}]}, {}]),
    "documents": DocumentBlock(
        **FACTS,
        sources=[7, 8],
        positions=[0, 2**40],
        documents=FULL_DOCUMENTS,
        samples=SAMPLES_OF_TWO,
    ),
    "tokens": TokenBlock(
        **COUNTED,
        input_ids=IDS,
        channel=IDS.astype(np.uint8),
        weight=IDS.astype(np.float32) / np.float32(3),
        starts=np.array([0, 2]),
        lengths=np.array([2, 3]),
        sources=IDS[:2],
        positions=np.array([2**40, 1]),
        pieces=IDS[::3],
    ),
    "packs": PackedBlock(**COUNTED, packs=full_packs(8, weight=True), holdout=full_packs(4, weight=False)),
    "info": BlockInfo(
        unit=1,
        block=2,
        last=True,
        unit_sha256="0" * 64,
        input_bytes=3,
        rows={"0": 4},
        rejects={Reason.EMPTY: 5},
        channels={"0": {"5": 6}},
        holdout_channels={"11": 7},
        truncated=8,
        straddling=9,
        turns=TURNS,
        certificate=CERTIFICATE,
        difference=ENGINE_DIFFERENCE,
        shard=ShardFile(name="a", bytes=1, sha256="1" * 64, packs=2, documents=3, tokens=4),
        holdout=None,
        reject_file=RejectFile(name="b", bytes=1, sha256="2" * 64, rows=2),
    ),
}


@every_coder
def test_a_full_block_comes_back_as_it_was(name: str) -> None:
    coder = CODERS[name]
    assert same(coder.decode(coder.encode(EXAMPLES[name])), EXAMPLES[name])


def test_what_json_has_not_is_an_error() -> None:
    message = Message("user", extra={"image": b""})
    with pytest.raises(TypeError, match="dataclass"):
        DocumentBlockCoder().encode(DocumentBlock(KEY, [0], [0], [Conversation((message,))]))
    with pytest.raises(TypeError, match="bytes"):
        RowBlockCoder().encode(RowBlock(KEY, [0], [0], [{"image": b""}]))


def test_deep_rows_pass() -> None:
    value: list[Any] = []
    for _ in range(500):
        value = [value]
    block = RowBlock(KEY, [0], [0], [{"deep": value}])
    assert RowBlockCoder().decode(RowBlockCoder().encode(block)) == block


def test_decoded_arrays_are_aligned_and_read_only() -> None:
    coder = TokenBlockCoder()
    block = coder.decode(coder.encode(EXAMPLES["tokens"]))
    arrays: list[npt.NDArray[Any]] = [block.input_ids, block.channel, block.starts, block.positions]
    for values in arrays:
        assert values.flags.aligned
        assert not values.flags.writeable


def test_sizes_are_those_of_the_data() -> None:
    packs = full_packs(8, weight=True)
    per_token, per_document = 2 * 8 * (4 + 1 + 4), 3 * (4 + 4 + 4 + 8 + 4)
    assert RowBlockCoder().estimate_size(RowBlock(KEY, bytes=5)) == 5
    assert DocumentBlockCoder().estimate_size(DocumentBlock(KEY, bytes=5)) == 5
    assert TokenBlockCoder().estimate_size(EXAMPLES["tokens"]) == 5 * (4 + 1 + 4) + 2 * (8 + 8 + 4 + 8 + 4)
    assert PackedBlockCoder().estimate_size(PackedBlock(KEY, None, None)) == 0
    assert PackedBlockCoder().estimate_size(PackedBlock(KEY, packs, None)) == per_token + per_document
    assert PackedBlockCoder().estimate_size(PackedBlock(KEY, packs, packs)) == 2 * (per_token + per_document)


def test_the_estimate_of_a_huge_block_fits_what_beam_holds_it_in() -> None:
    huge = np.broadcast_to(np.int32(0), (1, 2**31))  # takes no memory
    tokens = replace(EXAMPLES["tokens"], input_ids=huge)
    packed = PackedBlock(KEY, replace(full_packs(8, weight=True), input_ids=huge), None)
    blocks: dict[str, Any] = {"rows": RowBlock(KEY, bytes=2**40), "documents": DocumentBlock(KEY, bytes=2**40)}
    for name, block in {**blocks, "tokens": tokens, "packs": packed}.items():
        coder = CODERS[name]
        assert coder.estimate_size(block) == LARGEST
        assert coder.get_impl().estimate_size(block, True) > LARGEST


@every_coder
def test_no_coder_claims_to_be_deterministic(name: str) -> None:
    assert not CODERS[name].is_deterministic()


Calls = dict[str, int]


@pytest.fixture
def calls(name: str, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """How often Beam asks for what; pickling a block raises."""
    register_coders()
    counts = {"encode": 0, "decode": 0, "estimate_size": 0}
    kind = type(CODERS[name])

    def counted(method: str) -> Callable[[Any, Any], Any]:
        original = getattr(kind, method)

        def call(self: Any, value: Any) -> Any:
            counts[method] += 1
            return original(self, value)

        return call

    for method in counts:
        monkeypatch.setattr(kind, method, counted(method))
    monkeypatch.setattr(type(EXAMPLES[name]), "__reduce_ex__", refuse)
    return counts


def refuse(block: object, protocol: int) -> None:
    raise AssertionError(f"{type(block).__name__} is pickled")


SEEN: list[Any] = []


def make(name: str) -> Any:
    return EXAMPLES[name]


def identity(block: Any) -> Any:
    return block


def see(block: Any) -> None:
    SEEN.append(block)


def run(name: str, between: Callable[[Any, type], Any]) -> list[Any]:
    """Make the example, put the steps `between` behind it, and give what comes out."""
    SEEN.clear()
    kind = type(EXAMPLES[name])
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        made = pipeline | beam.Create([name]) | "Make" >> beam.Map(make).with_output_types(kind)
        _ = between(made, kind) | "See" >> beam.Map(see)
    return list(SEEN)


@every_coder
def test_fused_steps_encode_nothing(name: str, calls: Calls) -> None:
    seen = run(name, lambda made, kind: made | beam.Map(identity).with_output_types(kind))
    assert len(seen) == 1
    assert seen[0] is EXAMPLES[name]
    assert calls["estimate_size"] > 0
    assert calls["encode"] == calls["decode"] == 0


@every_coder
def test_blocks_pass_a_shuffle(name: str, calls: Calls) -> None:
    seen = run(name, lambda made, kind: made | beam.Reshuffle())
    assert len(seen) == 1
    assert seen[0] is not EXAMPLES[name]
    assert same(seen[0], EXAMPLES[name])
    assert calls["encode"] > 0
    assert calls["decode"] > 0
