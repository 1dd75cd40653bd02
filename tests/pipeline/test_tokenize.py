"""Tokenizing: the rules about length and loss, and that every row is accounted for."""

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.blocks import BlockKey, DocumentBlock
from pipeline.chat.formatter import ChatFormatter, Tokens
from pipeline.config import BuildConfig
from pipeline.encoders.base import AddedToken, Encoded, TokenSpan
from pipeline.holdout import is_held_out
from pipeline.token_block import TokenBlock
from pipeline.tokenize import DocumentTokenizer, split, text_channels, tokenize_documents
from schemas.channels import NO_LOSS, Part, Role, pack_channel
from schemas.conversation import Conversation, Document, Message, TextDocument
from schemas.policy import PRESETS
from schemas.rejects import Reason, Reject, RejectRow

BOS, EOS, THINK = 500, 501, 502
TEMPLATE = pack_channel(Role.TEXT, Part.TEMPLATE, no_loss=True)
BODY, END = pack_channel(Role.TEXT, Part.BODY), pack_channel(Role.TEXT, Part.END)
ASSISTANT, USER = pack_channel(Role.ASSISTANT, Part.BODY, last_turn=True), pack_channel(Role.USER, Part.BODY)
KEY = BlockKey(1, 2, True)
PINNED = [54, 120, 128, 258, 462]


class LetterEncoder:
    """A token a letter: its code modulo 400."""

    libraries: tuple[str, ...] = ()
    vocab_size = 600

    def __init__(self, prefix: tuple[int, ...] = (BOS,), suffix: tuple[int, ...] = (EOS,)) -> None:
        self.added_tokens = (
            AddedToken("<s>", BOS, special=True),
            AddedToken("</s>", EOS, special=True),
            AddedToken("<think>", THINK, special=False),
        )
        self.prefix, self.suffix = prefix, suffix

    def encode(self, text: str, controls: list[TokenSpan]) -> Encoded:
        raise NotImplementedError

    def encode_document(self, text: str, *, parse: bool = False) -> npt.NDArray[np.int32]:
        text.encode()
        return np.array([*self.prefix, *(ord(letter) % 400 for letter in text), *self.suffix], np.int32)

    def decode(self, ids: Any) -> str:
        raise NotImplementedError


class LetterFormatter(ChatFormatter):
    """Every message's letters, with the weight of the message; an assistant's are trained."""

    def __init__(self) -> None:
        """Without a template: nothing is rendered."""
        self.end_ids = []
        self.blocks = 0

    def start_block(self) -> None:
        self.blocks += 1

    def documents(self, conversation: Conversation, *, replay: bool = True) -> list[Tokens]:
        contents = [(message, message.content or "") for message in conversation.messages]
        channel = [ASSISTANT if m.role == "assistant" else USER for m, content in contents for _ in content]
        weights = [1.0 if m.weight is None else m.weight for m, content in contents for _ in content]
        ids = [ord(letter) % 400 for _, content in contents for letter in content]
        given_weight = any(message.weight is not None for message in conversation.messages)
        channels = np.array(channel, np.uint8)
        channels[:1] |= NO_LOSS
        weight = np.array(weights, np.float32) if given_weight else None
        return [Tokens(np.array(ids, np.int32), channels, weight, straddling=2)]


def make_tokenizer(encoder: LetterEncoder | None = None, *, chat: bool = True, **changes: Any) -> DocumentTokenizer:
    values = {
        "output": "out",
        "seq_len": 8,
        "sources": [{"path": "a", "transform": {"type": "text"}}],
        "tokenizer": {"path": "t"},
        **changes,
    }
    config = BuildConfig.model_validate(values)
    return DocumentTokenizer(config, encoder or LetterEncoder(), LetterFormatter() if chat else None)


def talk(question: str, answer: str, weight: float | None = None) -> Conversation:
    return Conversation((Message("user", question), Message("assistant", answer, weight=weight)))


def run(documents: list[Document], tokenizer: DocumentTokenizer, rejects: list[Reject] | None = None) -> TokenBlock:
    sources = [number % 2 for number in range(len(documents))]
    positions = [10 * number for number in range(len(documents))]
    block = DocumentBlock(KEY, sources, positions, documents, rejects or [], bytes=77)
    return tokenize_documents(block, tokenizer)


def test_a_block_begins_a_sample_of_replayed_renderings() -> None:
    formatter = LetterFormatter()
    tokenizer = make_tokenizer()
    tokenizer._formatter = formatter
    run([talk("a", "b"), talk("c", "d")], tokenizer)
    run([talk("a", "b")], tokenizer)
    assert formatter.blocks == 2


def reason_of(document: Document, tokenizer: DocumentTokenizer) -> Reason:
    with pytest.raises(RejectRow) as caught:
        tokenizer.tokenize(document)
    return caught.value.reason


def test_a_text_is_body_between_its_begin_and_its_end() -> None:
    (tokens,) = make_tokenizer().tokenize(TextDocument("abc"))
    assert tokens.input_ids.tolist() == [BOS, 97, 98, 99, EOS]
    assert tokens.channel.tolist() == [TEMPLATE, BODY, BODY, BODY, END]


@pytest.mark.parametrize(
    ("prefix", "suffix", "expected"),
    [
        ((), (EOS,), [BODY | NO_LOSS, BODY, END]),
        ((BOS,), (), [TEMPLATE, BODY, BODY]),
        ((), (), [BODY | NO_LOSS, BODY]),
        ((THINK,), (THINK,), [BODY | NO_LOSS, BODY, BODY, BODY]),
    ],
)
def test_only_control_tokens_are_begin_and_end(prefix: Any, suffix: Any, expected: list[int]) -> None:
    encoder = LetterEncoder(prefix, suffix)
    ids = encoder.encode_document("ab")
    assert text_channels(len(ids), encoder, ids).tolist() == expected


def test_no_token_at_all_has_no_channel() -> None:
    assert text_channels(0, LetterEncoder(), np.zeros(0, np.int32)).tolist() == []


@given(st.integers(1, 60), st.integers(2, 12))
def test_each_token_of_a_split_text_is_trained_once(length: int, seq_len: int) -> None:
    text = "".join(chr(0x4E00 + number) for number in range(length))
    encoder = LetterEncoder()
    ids = np.arange(length + 2, dtype=np.int32)
    channel = text_channels(length + 2, encoder, encoder.encode_document(text))
    pieces = list(split(Tokens(ids, channel), seq_len))
    assert all(2 <= len(piece) <= seq_len for piece in pieces)
    assert all(len(piece) == seq_len for piece in pieces[:-1])
    assert all(piece.channel[0] & NO_LOSS for piece in pieces)
    trained = Counter(
        token
        for piece in pieces
        for token, byte in zip(piece.input_ids.tolist(), piece.channel.tolist(), strict=True)
        if PRESETS["assistant"].table()[byte]
    )
    assert trained == Counter(range(1, length + 2))
    joined = [token for piece in pieces for token in piece.input_ids.tolist()[1:]]
    assert joined == list(range(1, length + 2))
    assert all(later.input_ids[0] == before.input_ids[-1] for before, later in pairwise(pieces))


def test_a_text_that_fits_is_one_piece() -> None:
    for length, pieces in ((5, 1), (6, 1), (7, 2), (13, 2), (14, 3)):
        assert len(make_tokenizer(too_long="split").tokenize(TextDocument("a" * length))) == pieces


def test_split_pieces_are_numbered() -> None:
    block = run([TextDocument("a"), TextDocument("b" * 20), TextDocument("c")], make_tokenizer(too_long="split"))
    assert block.pieces.tolist() == [0, 0, 1, 2, 0]
    assert block.positions.tolist() == [0, 10, 10, 10, 20]
    assert block.sources.tolist() == [0, 1, 1, 1, 0]
    assert block.lengths.tolist() == [3, 8, 8, 8, 3]
    assert block.truncated == 0


def test_a_long_conversation_is_never_split() -> None:
    assert reason_of(talk("abc", "d" * 20), make_tokenizer(too_long="split")) == Reason.TOO_LONG


def test_what_is_too_long_is_a_reject_by_default() -> None:
    tokenizer = make_tokenizer()
    assert len(tokenizer.tokenize(TextDocument("a" * 6))[0]) == 8
    assert reason_of(TextDocument("a" * 7), tokenizer) == Reason.TOO_LONG
    with pytest.raises(RejectRow, match="9 tokens, seq_len is 8"):
        tokenizer.tokenize(TextDocument("a" * 7))


def test_what_is_truncated_is_counted() -> None:
    documents: list[Document] = [TextDocument("a" * 20), talk("ab", "c" * 7), TextDocument("a" * 6)]
    block = run(documents, make_tokenizer(too_long="truncate"))
    assert block.lengths.tolist() == [8, 8, 8]
    assert block.truncated == 2
    assert block.rejects == []
    assert EOS not in block.input_ids[:8].tolist()


def test_a_document_without_a_trained_token_is_a_reject() -> None:
    assert reason_of(Conversation((Message("user", "ab"),)), make_tokenizer()) == Reason.NO_TRAINED_TOKENS
    assert reason_of(talk("abc", ""), make_tokenizer()) == Reason.NO_TRAINED_TOKENS
    assert reason_of(talk("", "x"), make_tokenizer()) == Reason.NO_TRAINED_TOKENS
    assert len(make_tokenizer(loss_policy="all").tokenize(Conversation((Message("user", "ab"),)))) == 1
    assert reason_of(talk("ab", "cd"), make_tokenizer(loss_policy="text")) == Reason.NO_TRAINED_TOKENS
    cut_off = make_tokenizer(too_long="truncate")
    assert reason_of(talk("a" * 8, "b"), cut_off) == Reason.NO_TRAINED_TOKENS


def test_a_conversation_without_a_template_is_a_reject() -> None:
    assert reason_of(talk("a", "b"), make_tokenizer(chat=False)) == Reason.TEMPLATE_ERROR


def test_a_lone_surrogate_is_a_reject() -> None:
    assert reason_of(TextDocument("a\ud800b"), make_tokenizer()) == Reason.UNENCODABLE


LENGTHS = st.integers(0, 14)
DOCUMENTS = st.one_of(
    LENGTHS.map(lambda length: TextDocument("t" * length)),
    st.builds(lambda question, answer: talk("q" * question, "a" * answer), LENGTHS, LENGTHS),
    st.just(TextDocument("\udfff")),
)


@given(st.lists(DOCUMENTS, max_size=12), st.sampled_from(["reject", "truncate", "split"]), st.booleans())
def test_every_row_gives_documents_or_one_reject(documents: list[Document], too_long: str, weights: bool) -> None:
    earlier = [Reject(1, 5, Reason.INVALID_JSON, ""), Reject(3, 0, Reason.EMPTY, "")]
    block = run(documents, make_tokenizer(too_long=too_long, loss_weights=weights), list(earlier))
    kept = set(zip(block.sources.tolist(), block.positions.tolist(), strict=True))
    rejected = [(reject.source, reject.position) for reject in block.rejects]
    assert block.rejects[:2] == earlier
    assert len(set(rejected)) == len(rejected)
    assert not kept & set(rejected)
    assert kept | set(rejected) == {(n % 2, 10 * n) for n in range(len(documents))} | {(1, 5), (3, 0)}
    assert sum(block.rows.values()) == len(kept) + len(rejected)
    assert block.rows == dict(Counter(source for source, _ in [*kept, *rejected]))
    assert list(block.rows) == sorted(block.rows)
    check_flat(block, weights=weights)


def check_flat(block: TokenBlock, *, weights: bool) -> None:
    assert (block.key, block.bytes) == (KEY, 77)
    assert len(block) == len(block.positions) == len(block.pieces) == len(block.starts)
    assert (block.starts + block.lengths).max(initial=0) == len(block.input_ids) == len(block.channel)
    assert (block.input_ids.dtype, block.channel.dtype) == (np.int32, np.uint8)
    assert (block.sources.dtype, block.positions.dtype, block.pieces.dtype) == (np.int32, np.int64, np.int32)
    assert all(1 <= length <= 8 for length in block.lengths.tolist())
    assert all(block.channels_of(document)[0] & NO_LOSS for document in range(len(block)))
    assert (block.weight is not None) == weights
    assert block.weight is None or len(block.weight) == len(block.input_ids)


def test_weights_are_one_where_a_row_gives_none() -> None:
    block = run([talk("ab", "cd", 0.5), talk("a", "b"), TextDocument("x")], make_tokenizer(loss_weights=True))
    assert block.weight is not None
    assert block.weight.tolist() == [1, 1, 0.5, 0.5, 1, 1, 1, 1, 1]
    assert run([talk("ab", "cd", 0.5)], make_tokenizer()).weight is None
    truncated = run([talk("ab", "c" * 9, 0.5)], make_tokenizer(loss_weights=True, too_long="truncate")).weight
    assert truncated is not None
    assert truncated.tolist() == [1, 1, *[0.5] * 6]


def test_straddling_tokens_are_counted() -> None:
    documents: list[Document] = [talk("a", "b"), TextDocument("x"), talk("a", "b" * 20)]
    assert run(documents, make_tokenizer()).straddling == 2


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_the_holdout_is_about_its_share(share: float) -> None:
    rows = 20_000
    held_out = sum(is_held_out("s3://bucket/rows.jsonl", position, share) for position in range(rows))
    deviation = (rows * share * (1 - share)) ** 0.5
    assert abs(held_out - rows * share) < 4 * deviation


def test_the_holdout_is_pinned_and_grows_with_its_share() -> None:
    small, large = ({n for n in range(2000) if is_held_out("rows.jsonl", n, share)} for share in (0.01, 0.02))
    assert small < large
    assert sorted(small)[:5] == PINNED
    assert small != {n for n in range(2000) if is_held_out("other.jsonl", n, 0.01)}


def test_no_share_holds_out_nothing() -> None:
    assert not any(is_held_out("a", position, 0.0) for position in range(1000))
    assert all(is_held_out("a", position, 1.0) for position in range(1000))
