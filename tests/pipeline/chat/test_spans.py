"""Training on parts of a message: a token of its body is trained if all of its characters lie in trained spans."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.chat.formatter import ChatFormatter
from pipeline.chat.regions import row_spans
from schemas.channels import NO_LOSS
from schemas.conversation import Conversation, Message, Span
from schemas.policy import DEFAULT_POLICY
from schemas.rejects import RejectRow
from tests.support.families import make_family

Strip = Callable[[str, bool], str]
"""What a template emits of an answer's content; the second argument says whether it is the last answer."""
CONTENT = st.text(alphabet="abcdefgh the,.\n <>\u00e9\u4e16\u0301\U0001f600", max_size=30).filter(str.strip)
LONG = st.lists(st.sampled_from(["the answer", " is", "\n", "  ", "def f(x):", "\u4e16\u754c", "e\u0301"]), min_size=1)


NO_THOUGHTS = "<think>\n\n</think>\n\n"


def as_is(text: str, _: bool) -> str:
    return text


def trimmed(text: str, _: bool) -> str:
    return text.strip()


def last_without_first_lines(text: str, is_last: bool) -> str:
    return text.lstrip("\n") if is_last else text


SMALL: dict[str, Strip] = {
    "qwen2_5": as_is,
    "qwen3": last_without_first_lines,
    "llama3": trimmed,
    "gemma3": trimmed,
    "phi3": as_is,
    "cohere": trimmed,
}
REAL: dict[str, Strip] = {"qwen": as_is, "llama": trimmed, "qwen_ranks": as_is, "llama_ranks": trimmed}


@st.composite
def spans_of(draw: st.DrawFn, content: str) -> tuple[Span, ...]:
    cuts = sorted(draw(st.sets(st.integers(0, len(content)), max_size=8)))
    return tuple(zip(cuts[::2], cuts[1::2], strict=False))


@st.composite
def answers(draw: st.DrawFn) -> list[Message]:
    """One or two answers with their spans."""
    contents = draw(st.lists(CONTENT | LONG.map("".join).filter(str.strip), min_size=1, max_size=2))
    return [Message("assistant", content, spans=draw(spans_of(content))) for content in contents]


def expected_channels(formatter: ChatFormatter, conversation: Conversation, strip: Strip) -> list[int]:
    """Slow and obvious: the channels without spans; a token with a body character outside of them is never trained.

    An answer's body begins where the served prompt ends, or after an empty think block.
    """
    plain = Conversation(tuple(replace(message, spans=None) for message in conversation.messages))
    whole = formatter.render(plain).plain
    banned: set[int] = set()
    for index, message in enumerate(conversation.messages):
        if message.role != "assistant":
            continue
        prompt = formatter.template.prompt(plain, index)
        assert prompt is not None
        assert message.content is not None
        assert message.spans is not None
        emitted = strip(message.content, index == len(conversation.messages) - 1)
        body = whole[len(prompt.plain) :].removeprefix(NO_THOUGHTS)
        assert body.startswith(emitted)
        begin = len(whole) - len(body) - message.content.index(emitted)
        trained = {place for first, end in message.spans for place in range(first, end)}
        first = message.content.index(emitted)
        for place in range(first, first + len(emitted)):
            assert whole[begin + place] == message.content[place]
            if place not in trained:
                banned.add(begin + place)
    encoded = formatter.encoder.encode(whole, None)
    made = formatter.format(plain)
    assert np.array_equal(encoded.ids, made.input_ids)
    channels = []
    for start, end, channel in zip(encoded.starts.tolist(), encoded.ends.tolist(), made.channel.tolist(), strict=True):
        channels.append(channel | NO_LOSS * any(place in banned for place in range(start, end)))
    return channels


def check(formatter: ChatFormatter, said: list[Message], strip: Strip) -> None:
    messages = [turn for answer in said for turn in (Message("user", "Hi"), answer)]
    conversation = Conversation(tuple(messages))
    assert formatter.format(conversation).channel.tolist() == expected_channels(formatter, conversation, strip)


@settings(max_examples=40, deadline=None)
@given(said=answers())
@pytest.mark.parametrize("family", SMALL)
def test_tokens_are_trained_that_lie_within_the_spans(family: str, said: list[Message]) -> None:
    check(make_family(family), said, SMALL[family])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=answers())
@pytest.mark.parametrize("family", REAL)
def test_and_so_they_are_with_real_tokenizers(family: str, said: list[Message], request: pytest.FixtureRequest) -> None:
    check(request.getfixturevalue(family), said, REAL[family])


def trained_text(formatter: ChatFormatter, *messages: Message) -> str:
    tokens = formatter.format(Conversation(messages))
    trained = DEFAULT_POLICY.table()[tokens.channel]
    return formatter.encoder.decode(tokens.input_ids[trained].tolist())


def test_the_end_and_the_markup_follow_the_message(qwen: ChatFormatter, llama: ChatFormatter) -> None:
    ask, said = Message("user", "a"), Message("assistant", " Yes, it is so.", spans=((1, 4), (12, 15)))
    # " it" has a character outside; so has " so", which begins with the space.
    assert trained_text(qwen, ask, said) == ".<|im_end|>"
    assert trained_text(llama, ask, said) == "Yes.<|eot_id|>"  # of which the template has taken the space
    none = replace(said, spans=())
    assert trained_text(qwen, ask, none) == "<|im_end|>"
    assert trained_text(qwen, ask, replace(none, train=False), ask, said) == ".<|im_end|>"
    whole = replace(said, spans=((0, 15),))
    assert trained_text(qwen, ask, whole) == trained_text(qwen, ask, replace(said, spans=None))


CHANGES = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ EXPRESSION }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize(
    ("expression", "text", "inside"),
    [
        ("m.content[2:]", "cdef", "cd"),
        ("m.content.split('c')[-1]", "def", "d"),
        ("m.content | replace('e', 'EE') | replace('d', 'D')", "abcDEEf", "bc"),
        ("m.content.replace('c', '-') ~ m.content", "ab-defabcdef", "bdbcd"),
        ("m.content | upper", "ABCDEF", "BCD"),
        ("m.content | list | join('.')", "a.b.c.d.e.f", "bcd"),
        ("m.content[::-1]", "fedcba", "dcb"),
    ],
)
def test_spans_go_through_what_a_template_does_to_content(expression: str, text: str, inside: str) -> None:
    """Characters that the template puts in the place of others are its own."""
    template = make_family("qwen2_5", CHANGES.replace("EXPRESSION", expression)).template
    rendering = template.render(Conversation((Message("assistant", "abcdef", spans=((1, 4),)),)))
    assert text in rendering
    kept = [rendering.plain[start:end] for start, end, origin in row_spans(rendering) if origin.part == 0]
    assert "".join(kept) == inside


def test_text_outside_of_spans_must_be_emitted_too() -> None:
    formatter = make_family("qwen2_5", CHANGES.replace("EXPRESSION", "m.content[1:]"))
    with pytest.raises(RejectRow, match="drops text"):
        formatter.format(Conversation((Message("user", "ab"), Message("assistant", "abc", spans=((1, 2),)))))
