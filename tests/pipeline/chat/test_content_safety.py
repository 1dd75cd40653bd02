"""Content is harmless: whatever a row holds, the control tokens of its rendering are those of harmless content."""

import functools
import io
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date

import pytest
import sentencepiece
from families import FAMILIES, make_family
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_folders import load_once

from pipeline.chat.formatter import ChatFormatter
from pipeline.chat.shipped import choose_template
from pipeline.chat.template import ChatTemplate
from pipeline.encoders.sentence_pieces import SentencePieceEncoder
from schemas.conversation import Conversation, Message, ToolCall
from schemas.rejects import Reason, RejectRow

FRAGMENTS = ["{{ messages }}", "{% for x in y %}", "{# x #}", "[INST]", "</s>", "<s>", "<|im_", "|>", "<|", "\u2581"]
PLAIN = ["word", "a b", "\u4e16\u754c", "e\u0301", "\U0001f600", " ", "\n", "<", "x=1", "\u00a0", "\r\n", "\t"]
THINK_TAGS = ("<think>", "</think>")
EXAMPLES = 6
ALLOWED = {Reason.NOT_EMITTED, Reason.TEMPLATE_ERROR, Reason.NONE_RENDERED}
TRIED: Counter[str] = Counter()
REJECTED: Counter[str] = Counter()

each_family = pytest.mark.parametrize("name", FAMILIES)
QUICK = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
Field = Callable[[str], Conversation]


def conversation(*messages: Message, tools: str | None = None) -> Conversation:
    return Conversation(tuple(messages), tools)


USER, ANSWER = Message(role="user", content="Question"), Message(role="assistant", content="Answer")
FIELDS: dict[str, Field] = {
    "user": lambda text: conversation(Message(role="user", content=text), ANSWER),
    "assistant": lambda text: conversation(USER, Message(role="assistant", content=text)),
    "system": lambda text: conversation(Message(role="system", content=text), USER, ANSWER),
    "first answer": lambda text: conversation(USER, Message(role="assistant", content=text), USER, ANSWER),
    "reasoning": lambda text: conversation(USER, Message(role="assistant", content="Answer", reasoning_content=text)),
    "tool result": lambda text: conversation(USER, *called("f", '{"k": "v"}'), result(text), ANSWER),
    "tool name": lambda text: conversation(USER, *called(text, '{"k": "v"}'), result("Result"), ANSWER),
    "name": lambda text: conversation(Message(role="user", content="Question", name=text), ANSWER),
}


def called(name: str, arguments: str) -> tuple[Message, ...]:
    return (Message(role="assistant", tool_calls=(ToolCall(name, arguments, "abcdefghi"),)),)


def result(text: str) -> Message:
    return Message(role="tool", content=text, tool_call_id="abcdefghi", name="f")


def texts(formatter: ChatFormatter) -> st.SearchStrategy[str]:
    """Text with the family's own added tokens in it, and others' and templates' marks. It begins and ends with a
    letter, since templates strip white space."""
    own = [token.content for token in formatter.encoder.added_tokens]
    pieces = st.lists(st.sampled_from([*own, *own, *FRAGMENTS, *PLAIN]), min_size=1, max_size=8)
    return pieces.map(lambda some: f"x{''.join(some)}y")


def ids_of(formatter: ChatFormatter, row: Conversation) -> list[int]:
    ids: list[int] = formatter.format(row).input_ids.tolist()
    return ids


def controls_of(formatter: ChatFormatter, ids: list[int]) -> list[int]:
    """Without the tags of reasoning, which templates look for in content."""
    controls = {token.id for token in formatter.control_tokens if token.content not in THINK_TAGS}
    return [token for token in ids if token in controls]


@functools.cache
def harmless(name: str, field: str) -> tuple[int, ...] | None:
    """The control tokens of the conversation with harmless text; None where the template refuses it."""
    try:
        return tuple(controls_of(make_family(name), ids_of(make_family(name), FIELDS[field]("xwordy"))))
    except RejectRow:
        return None


@pytest.mark.parametrize("field", FIELDS)
@each_family
def test_control_tokens_are_those_of_harmless_content(name: str, field: str) -> None:
    formatter = make_family(name)
    expected = harmless(name, field)
    if expected is None:
        return

    @QUICK
    @given(text=texts(formatter))
    def check(text: str) -> None:
        TRIED[name] += 1
        try:
            ids = ids_of(formatter, FIELDS[field](text))
        except RejectRow as reject:
            REJECTED[reject.reason] += 1
            return
        assert controls_of(formatter, ids) == list(expected)
        if formatter.encoder.decode(ids) != formatter.render(FIELDS[field](text)).plain:
            # A token that takes in the white space after it decodes without it.
            assert any(token.rstrip or token.lstrip for token in formatter.control_tokens)

    check()


def test_few_rows_were_rejected() -> None:
    """Runs after the tests above, in one process."""
    if set(FAMILIES) != set(TRIED):
        pytest.skip("not every family was tried in this process")
    assert sum(TRIED.values()) > EXAMPLES * len(FAMILIES) * 4
    assert set(REJECTED) <= ALLOWED
    assert sum(REJECTED.values()) < sum(TRIED.values()) / 20


def plain_tokens(formatter: ChatFormatter) -> Sequence[str]:
    controls = {token.id for token in formatter.control_tokens}
    return [token.content for token in formatter.encoder.added_tokens if token.id not in controls]


@each_family
def test_tokens_that_the_model_writes_keep_their_ids(name: str) -> None:
    """`<think>` and `<tool_call>` typed in content are the ids that serving makes of them."""
    formatter = make_family(name)
    contents = [content for content in plain_tokens(formatter) if content not in THINK_TAGS]
    ids = {token.content: token.id for token in formatter.encoder.added_tokens}
    for content in contents:
        tokens = formatter.format(FIELDS["user"](f"x{content}y")).input_ids.tolist()
        harmless_tokens = formatter.format(FIELDS["user"]("xzy")).input_ids.tolist()
        assert tokens.count(ids[content]) == harmless_tokens.count(ids[content]) + 1


@each_family
def test_a_typed_think_tag_is_the_models_own(name: str) -> None:
    formatter = make_family(name)
    ids = {token.content: token.id for token in formatter.encoder.added_tokens}
    if "<think>" not in ids:
        return
    assert set(THINK_TAGS) <= set(plain_tokens(formatter))
    typed = formatter.format(FIELDS["user"]("x<think>y</think>z")).input_ids.tolist()
    plain = formatter.format(FIELDS["user"]("xyz")).input_ids.tolist()
    for tag in THINK_TAGS:
        assert typed.count(ids[tag]) == plain.count(ids[tag]) + 1


def test_many_families_think() -> None:
    assert sum("<think>" in FAMILIES[name].plain for name in FAMILIES) > 15


@functools.cache
def user_defined(model_type: str) -> ChatFormatter:
    """ChatML over a sentencepiece model whose marks are user-defined symbols, which it makes of any text."""
    model = io.BytesIO()
    sentences = ["Question Answer xwordy a b word system user assistant < | > im start end think"] * 50
    sentencepiece.SentencePieceTrainer.train(  # type: ignore[attr-defined]
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=400,
        model_type=model_type,
        user_defined_symbols=["<|im_start|>", "<|im_end|>", "<think>", "</think>", "\n"],
        byte_fallback=True,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    encoder = SentencePieceEncoder(model.getvalue())
    source = choose_template("chatml", None, None)
    assert source is not None
    return ChatFormatter(ChatTemplate(source.text, {}, date(2024, 7, 26)), encoder, [], "<|im_end|>")


REAL = {
    "qwen": ("package://dashscope/resources/qwen.tiktoken", "qwen2.5"),
    "llama": ("package://llama_models/llama3/tokenizer.model", "llama3"),
    "mistral": ("package://mistral_common/data/mistral_instruct_tokenizer_240323.model.v3", None),
    "tekken": ("package://mistral_common/data/tekken_240911.json", None),
}
MISTRAL_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)


@functools.cache
def real(name: str) -> ChatFormatter:
    if name in ("unigram", "bpe"):
        return user_defined(name)
    loaded = load_once(*REAL[name])
    own = choose_template(None, None, loaded.preset.chat_template) if loaded.preset else None
    source = own.text if own else MISTRAL_TEMPLATE
    template = ChatTemplate(source, loaded.special_tokens, date(2024, 7, 26))
    return ChatFormatter(template, loaded.encoder, loaded.stop_ids, loaded.special_tokens.get("eos_token"))


@pytest.mark.parametrize("name", [*REAL, "unigram", "bpe"])
def test_real_tokenizers_and_user_defined_symbols(name: str) -> None:
    formatter = real(name)
    fields = [FIELDS[field] for field in ("user", "assistant", "first answer")]
    expected = [controls_of(formatter, ids_of(formatter, field("xwordy"))) for field in fields]
    assert all(len(ids) > 2 for ids in expected)
    own = [token.content for token in formatter.encoder.added_tokens][:20]
    some = st.lists(st.sampled_from([*own, *FRAGMENTS, *PLAIN]), min_size=1, max_size=8).map("".join)

    @settings(QUICK, max_examples=25)
    @given(text=some)
    def check(text: str) -> None:
        for field, ids in zip(fields, expected, strict=True):
            row = field(f"x{text}y")
            assert controls_of(formatter, ids_of(formatter, row)) == ids
            decoded = formatter.encoder.decode(formatter.format(row).input_ids.tolist())
            texts = (decoded, formatter.render(row).plain)
            shown, written = (unicodedata.normalize("NFC", text).replace("\u2581", " ") for text in texts)
            assert shown == written

    check()


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_user_defined_symbols_of_the_model_keep_their_ids(model_type: str) -> None:
    formatter = user_defined(model_type)
    assert {"<|im_start|>", "<|im_end|>"} <= {token.content for token in formatter.control_tokens}
    assert {"<think>", "</think>"}.isdisjoint(token.content for token in formatter.control_tokens)
    ids = {token.content: token.id for token in formatter.encoder.added_tokens}
    made = formatter.format(FIELDS["user"]("<think>x</think><|im_end|>")).input_ids.tolist()
    assert (made.count(ids["<think>"]), made.count(ids["</think>"])) == (1, 1)
    assert made.count(ids["<|im_end|>"]) == 2
    assert "\n" not in ids  # white space is ordinary vocabulary, whatever its type
