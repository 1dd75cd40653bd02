"""`too_long: truncate_turns`: what is left of a conversation is what serving has for the shorter one."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from families import make_family, template_folder
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.blocks import BlockKey, DocumentBlock
from pipeline.chat.formatter import ChatFormatter, Tokens
from pipeline.config import BuildConfig
from pipeline.tokenize import DocumentTokenizer, tokenize_documents
from schemas.channels import Part, unpack_channel
from schemas.conversation import Conversation, Message, TextDocument, ToolCall
from schemas.policy import DEFAULT_POLICY
from schemas.rejects import Reason, RejectRow

pytestmark = pytest.mark.skipif(template_folder() is None, reason="trl is not installed")

REASONS = ("qwen3", "gptoss", "glm4moe")
FAMILIES = (*REASONS, "qwen2_5", "llama3_1")
TOOLS = '[{"type": "function", "function": {"name": "weather", "description": "W", "parameters": {"type": "object"}}}]'
CALL = Message("assistant", "", tool_calls=(ToolCall("weather", '{"city": "Bern"}', "abcdefghi"),))
RESULT = Message("tool", "15 C", tool_call_id="abcdefghi", name="weather")
TEXTS = st.text(alphabet="ab \n.\u00e9", max_size=30).map(lambda text: f"x{text}y")


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    """One to six questions, answered at once or through a tool, some with reasoning, some kept out of the loss; the
    last of them may have no answer."""
    messages: list[Message] = []
    has_tools = draw(st.booleans())
    for _ in range(draw(st.integers(1, 6))):
        messages.append(Message("user", draw(TEXTS)))
        if has_tools and draw(st.booleans()):
            messages += [CALL, RESULT]
        reasoning, train = draw(st.none() | TEXTS), draw(st.sampled_from((None, None, False)))
        messages.append(Message("assistant", draw(TEXTS), reasoning, train=train))
    if draw(st.booleans()):
        messages.append(Message("user", "And?"))
    return Conversation(tuple(messages), TOOLS if has_tools else None)


def first_messages(conversation: Conversation, count: int) -> Conversation:
    return replace(conversation, messages=conversation.messages[:count])


def without_reasoning(conversation: Conversation) -> Conversation:
    messages = tuple(replace(message, reasoning_content=None) for message in conversation.messages)
    return replace(conversation, messages=messages)


def make_tokenizer(formatter: ChatFormatter, seq_len: int) -> DocumentTokenizer:
    values = {
        "output": "out",
        "seq_len": seq_len,
        "sources": [{"path": "a", "transform": {"type": "openai"}}],
        "tokenizer": {"path": "t"},
        "too_long": "truncate_turns",
    }
    return DocumentTokenizer(BuildConfig.model_validate(values), formatter.encoder, formatter)


def shorten(formatter: ChatFormatter, conversation: Conversation, seq_len: int) -> Tokens | Reason:
    try:
        (tokens,) = make_tokenizer(formatter, seq_len).tokenize(conversation)
    except RejectRow as reject:
        return reject.reason
    return tokens


def shorten_slowly(formatter: ChatFormatter, conversation: Conversation, seq_len: int) -> Tokens | Reason:
    """Every beginning that ends in an answer is tried, unless the whole is refused for itself."""
    whole = try_format(formatter, conversation)
    if isinstance(whole, Reason):
        return whole
    fitting = None
    for count, message in enumerate(conversation.messages[:-1], start=1):
        if message.role == "assistant":
            shorter = try_format(formatter, first_messages(conversation, count))
            fitting = shorter if isinstance(shorter, Tokens) and len(shorter) <= seq_len else fitting
    if fitting is None:
        return Reason.TOO_LONG
    return fitting if is_trained(fitting) else Reason.NO_TRAINED_TOKENS


def try_format(formatter: ChatFormatter, conversation: Conversation) -> Tokens | Reason:
    try:
        return formatter.format(conversation)
    except RejectRow as reject:
        return reject.reason


def is_trained(tokens: Tokens) -> bool:
    return bool(DEFAULT_POLICY.table()[tokens.channel].any())


def as_lists(tokens: Tokens | Reason) -> Any:
    if isinstance(tokens, Reason):
        return tokens
    return tokens.input_ids.tolist(), tokens.channel.tolist(), tokens.straddling, tokens.turns


def check_end(formatter: ChatFormatter, tokens: Tokens) -> None:
    """The last turn has its end token, and nothing but template text comes after it."""
    last = tokens.turns[-1]
    assert int(tokens.input_ids[last.end - 1]) in formatter.end_ids
    assert unpack_channel(int(tokens.channel[last.end - 1])).part == Part.END
    assert not [byte for byte in tokens.channel[last.end :].tolist() if unpack_channel(byte).part != Part.TEMPLATE]


def test_the_longest_beginning_that_fits_is_kept() -> None:
    found: Counter[tuple[str, Any]] = Counter()

    @settings(max_examples=50, deadline=None)
    @given(conversations(), st.floats(0.3, 1))
    def check(conversation: Conversation, share: float) -> None:
        for family in FAMILIES:
            formatter = make_family(family)
            told = conversation if family in REASONS else without_reasoning(conversation)
            whole = try_format(formatter, told)
            seq_len = 8 if isinstance(whole, Reason) else max(8, int(share * (len(whole) - 1)))
            tokens = shorten(formatter, told, seq_len)
            assert as_lists(tokens) == as_lists(shorten_slowly(formatter, told, seq_len))
            found[family, tokens if isinstance(tokens, Reason) else "shortened"] += 1
            if isinstance(tokens, Tokens):
                assert tokens.truncated
                assert len(tokens) <= seq_len
                check_end(formatter, tokens)

    check()
    assert all(found[family, "shortened"] > 5 and found[family, Reason.TOO_LONG] for family in FAMILIES), found


@pytest.mark.parametrize("family", FAMILIES)
def test_few_beginnings_are_rendered(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    formatter = make_family(family)
    pairs = [(Message("user", f"{n} and?"), Message("assistant", f"answer {n}")) for n in range(16)]
    conversation = Conversation(tuple(message for pair in pairs for message in pair))
    whole = len(formatter.format(conversation))
    rendered: list[int] = []
    render = formatter.render

    def counted(conversation: Conversation) -> Any:
        rendered.append(len(conversation.messages))
        return render(conversation)

    monkeypatch.setattr(formatter, "render", counted)
    for seq_len in range(whole - 1, whole - 60, -6):
        rendered.clear()
        assert not isinstance(shorten(formatter, conversation, seq_len), Reason)
        assert len(rendered) <= 3


def test_what_fits_is_as_it_was() -> None:
    formatter = make_family("qwen3")
    conversation = Conversation((Message("user", "a"), Message("assistant", "b"), Message("user", "c")))
    whole = formatter.format(conversation)
    tokens = shorten(formatter, conversation, len(whole))
    assert as_lists(tokens) == as_lists(whole)
    assert isinstance(tokens, Tokens)
    assert not tokens.truncated


def test_reasoning_comes_back_to_the_turn_that_is_now_the_last() -> None:
    """What the template hid of an earlier turn it shows of the last: that may be longer than it was in the whole."""
    formatter = make_family("qwen3")
    messages = (
        Message("user", "a"),
        Message("assistant", "b"),
        Message("user", "c"),
        Message("assistant", "d", "so " * 40),
        Message("user", "e"),
        Message("assistant", "f " * 40),
    )
    conversation = Conversation(messages)
    short, long = (formatter.format(first_messages(conversation, count)) for count in (2, 4))
    whole = formatter.format(conversation)
    assert whole.turns[1].end < len(long) < len(whole)
    assert as_lists(shorten(formatter, conversation, len(long))) == as_lists(long)
    assert as_lists(shorten(formatter, conversation, len(long) - 1)) == as_lists(short)


def test_a_beginning_without_a_trained_token_is_a_reject() -> None:
    formatter = make_family("qwen2_5")
    closed = (Message("user", "a"), Message("assistant", "b", train=False))
    short = len(formatter.format(Conversation(closed)))
    conversation = Conversation((*closed, Message("user", "c"), Message("assistant", "d")))
    assert shorten(formatter, conversation, short) == Reason.NO_TRAINED_TOKENS
    assert shorten(formatter, conversation, short - 1) == Reason.TOO_LONG
    assert isinstance(shorten(formatter, conversation, 2 * short), Tokens)


def test_rows_are_counted_and_keep_their_places() -> None:
    formatter = make_family("llama3_1")
    pair = (Message("user", "ask"), Message("assistant", "say"))
    one, two = (len(formatter.format(Conversation(pair * count))) for count in (1, 2))
    documents = [Conversation(pair * 2), Conversation(pair), Conversation((*pair, Message("user", "x " * 99)))]
    long = (Message("user", "x " * 99), pair[1])
    block = DocumentBlock(BlockKey(0, 0, True), [3] * 5, [0, 10, 20, 30, 40], [*documents, Conversation(long)])
    block.documents.append(TextDocument("x " * 99))
    made = tokenize_documents(block, make_tokenizer(formatter, two - 1))
    assert made.lengths.tolist() == [one] * 3
    assert made.positions.tolist() == [0, 10, 20]
    assert made.truncated == 2
    assert [(reject.position, reject.reason) for reject in made.rejects] == [(30, "too_long"), (40, "too_long")]
    assert made.turns.counts["3"].model_dump(exclude_defaults=True) == {"trained": 3, "terminated": 3}
