"""The counts of assistant turns: a slow reference agrees, faults of the mask show, every family ends its turns."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from families import FAMILIES, make_family, template_folder
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.chat.formatter import ChatFormatter, Tokens, Turn
from pipeline.report import turn_warnings
from pipeline.tokenize import truncate
from pipeline.turns import EXAMPLES, OpenTurn, TurnAudit, add_audits, audit_turns
from schemas.channels import LEGAL, NO_LOSS, Part, Role, unpack_channel
from schemas.conversation import Conversation, Message, ToolCall
from schemas.manifest import Manifest, TurnCounts, Turns
from schemas.policy import DEFAULT_POLICY, PRESETS, LossPolicy
from schemas.rejects import RejectRow

needs_families = pytest.mark.skipif(template_folder() is None, reason="trl is not installed")

ENDS = {1, 2}
LEGAL_BYTES = np.flatnonzero(LEGAL).tolist()


# Against a slow reference


@st.composite
def documents(draw: st.DrawFn) -> Tokens:
    """Any ids and channels, in turns that do not overlap; two in a row may be of one message."""
    length = draw(st.integers(1, 24))
    places = sorted(draw(st.sets(st.integers(0, length - 1), max_size=8)))
    turns = []
    message = 0
    for start, end in zip(places[::2], places[1::2], strict=False):
        message += draw(st.sampled_from((0, 2, 3)))
        turns.append(Turn(message, start, end, draw(st.booleans()), draw(st.booleans())))
    ids = draw(st.lists(st.integers(0, 4), min_size=length, max_size=length))
    channel = draw(st.lists(st.sampled_from(LEGAL_BYTES), min_size=length, max_size=length))
    return Tokens(np.array(ids, np.int32), np.array(channel, np.uint8), turns=tuple(turns))


def count_slowly(tokens: Tokens, policy: LossPolicy) -> Counter[str]:
    """Token by token. A token is of the turn that began last."""
    count: Counter[str] = Counter()
    for message in dict.fromkeys(turn.message for turn in tokens.turns):
        own = [turn for turn in tokens.turns if turn.message == message]
        if max(turn.end for turn in own) > len(tokens):
            count["cut"] += 1
            continue
        last = None
        for place, (token, byte) in enumerate(zip(tokens.input_ids.tolist(), tokens.channel.tolist(), strict=True)):
            begun = [turn.message for turn in tokens.turns if turn.start <= place]
            role, part, _, _ = unpack_channel(byte)
            if begun and begun[-1] == message and role == Role.ASSISTANT and part != Part.TEMPLATE:
                last = token if policy.table()[byte] else last
        if last is not None:
            count["trained"] += 1
            count["terminated"] += last in ENDS
            count["reasoning_dropped"] += any(turn.reasoning_dropped for turn in own)
            count["not_served"] += any(not turn.served for turn in own)
    return count


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), documents()), max_size=4), st.sampled_from(sorted(PRESETS)))
def test_counts_are_those_of_a_slow_loop(found: list[tuple[int, Tokens]], preset: str) -> None:
    policy = PRESETS[preset]
    found = [(source, truncate(tokens, 12) if len(tokens) > 12 else tokens) for source, tokens in found]
    expected: dict[int, Counter[str]] = {}
    for source, tokens in found:
        expected.setdefault(source, Counter()).update(count_slowly(tokens, policy))
    places = [(source, 10 * number, tokens) for number, (source, tokens) in enumerate(found)]
    audit = audit_turns(places, policy.table(), ENDS)
    counts = {int(source): counts.model_dump(exclude_defaults=True) for source, counts in audit.counts.items()}
    assert {source: count for source, count in counts.items() if count} == {
        source: dict(+count) for source, count in expected.items() if +count
    }
    assert list(counts) == sorted(counts)
    for source, count in counts.items():
        opened = sum(turn.source == source for turn in audit.open_turns)
        assert opened == min(EXAMPLES, count.get("trained", 0) - count.get("terminated", 0))


def test_an_open_turn_is_shown_by_its_place_and_ids() -> None:
    trained, closed = 11, 11 | NO_LOSS
    tokens = Tokens(
        np.array([9, 3, 4, 5, 6, 7, 1, 8], np.int32),
        np.array([NO_LOSS, trained, trained, trained, trained, trained, closed, 0], np.uint8),
        turns=(Turn(5, 1, 7),),
    )
    audit = audit_turns([(4, 70, tokens)], DEFAULT_POLICY.table(), ENDS)
    assert audit.open_turns == (
        OpenTurn(source=4, position=70, message=5, trained_ids=(4, 5, 6, 7), following_ids=(1, 8)),
    )


def test_audits_add_up_in_order() -> None:
    def audit(source: int, position: int, trained: int) -> TurnAudit:
        turn = OpenTurn(source=source, position=position, message=1, trained_ids=(), following_ids=())
        return TurnAudit(counts={str(source): TurnCounts(trained=trained, cut=1)}, open_turns=(turn,))

    total = add_audits([audit(10, 0, 1), audit(9, 5, 2), *(audit(10, n, 1) for n in range(1, 9))])
    assert list(total.counts.items()) == [("9", TurnCounts(trained=2, cut=1)), ("10", TurnCounts(trained=9, cut=9))]
    assert [(turn.source, turn.position) for turn in total.open_turns] == [(9, 5), (10, 0), (10, 1), (10, 2)]
    assert add_audits([]) == TurnAudit()


# Every family

TOOLS = '[{"type": "function", "function": {"name": "weather", "description": "W", "parameters": {"type": "object"}}}]'
ASK, ANSWER = Message("user", "Hi\n <x>"), Message("assistant", " Hello\n\u4e16\u754c")
CALL = Message("assistant", "", tool_calls=(ToolCall("weather", '{"city": "Z\u00fc", "n": 3}', "abcdefghi"),))
RESULT = Message("tool", "15 C", tool_call_id="abcdefghi", name="weather")
CHATS = {
    "single": Conversation((ASK, ANSWER)),
    "multi": Conversation((ASK, ANSWER, ASK, ANSWER)),
    "system": Conversation((Message("system", "S"), ASK, ANSWER)),
    "tools": Conversation((ASK, CALL, RESULT, ANSWER), TOOLS),
    "calls": Conversation((ASK, CALL), TOOLS),
}


def audit_chat(formatter: ChatFormatter, chat: Conversation, policy: LossPolicy = DEFAULT_POLICY) -> TurnAudit:
    return audit_turns([(0, 0, formatter.format(chat))], policy.table(), formatter.end_ids)


def count(audit: TurnAudit) -> tuple[int, int]:
    counts = audit.counts["0"]
    return counts.trained, counts.terminated


@needs_families
def test_every_family_ends_its_turns() -> None:
    compared: set[tuple[str, str]] = set()
    open_families: set[str] = set()
    for family in FAMILIES:
        formatter = make_family(family)
        for kind, chat in CHATS.items():
            try:
                trained, terminated = count(audit_chat(formatter, chat))
            except RejectRow:  # the template has no tools, no system message, or takes no text
                continue
            assert trained == sum(message.role == "assistant" for message in chat.messages), (family, kind)
            compared.add((family, kind))
            open_families |= {family} if trained != terminated else set()
    assert not open_families
    assert {family for family, _ in compared} == set(FAMILIES)
    assert sum(kind == "calls" for _, kind in compared) > 20
    assert len(compared) > 150


# Faults


def mask_last_trained(tokens: Tokens) -> None:
    """torchtune #2792: the last token of the sequence was masked, and with it the <|im_end|> of Qwen."""
    last = np.flatnonzero(DEFAULT_POLICY.table()[tokens.channel])[-1]
    tokens.channel[last] |= NO_LOSS


def leave_ends_to_the_template(tokens: Tokens, ends: Sequence[int]) -> None:
    """axolotl #3754: the end of a turn was looked for by the eos token, which Gemma's <end_of_turn> is not."""
    tokens.channel[np.isin(tokens.input_ids, ends)] = Role.ASSISTANT | Part.TEMPLATE << 3


def audit_tokens(formatter: ChatFormatter, tokens: Tokens) -> TurnAudit:
    return audit_turns([(0, 0, tokens)], DEFAULT_POLICY.table(), formatter.end_ids)


@needs_families
@pytest.mark.parametrize("family", ["qwen2_5", "llama3_1", "gemma3", "glm4moe", "gptoss", "qwen3"])
def test_an_end_that_the_mask_leaves_out_is_missed(family: str) -> None:
    formatter = make_family(family)
    for kind, expected in {"single": (1, 0), "multi": (2, 1)}.items():
        tokens = formatter.format(CHATS[kind])
        end = int(tokens.input_ids[tokens.turns[-1].end - 1])
        mask_last_trained(tokens)
        audit = audit_tokens(formatter, tokens)
        assert count(audit) == expected
        assert audit.open_turns[0].following_ids[0] == end
    tokens = formatter.format(CHATS["multi"])
    leave_ends_to_the_template(tokens, formatter.end_ids)
    assert count(audit_tokens(formatter, tokens)) == (2, 0)


@needs_families
def test_a_mask_that_runs_over_the_end_is_missed() -> None:
    formatter = make_family("qwen2_5")
    tokens = formatter.format(CHATS["multi"])
    after = tokens.turns[0].end
    tokens.channel[after] = Role.ASSISTANT | Part.MARKUP << 3
    audit = audit_tokens(formatter, tokens)
    assert count(audit) == (2, 1)
    assert audit.open_turns[0].trained_ids[-1] == tokens.input_ids[after]


@needs_families
def test_the_policy_decides_what_is_trained() -> None:
    formatter = make_family("llama3_1")
    expected = {"assistant": (2, 2), "all": (2, 2), "last_turn": (1, 1), "no_reasoning": (2, 2)}
    for preset, counts in expected.items():
        assert count(audit_chat(formatter, CHATS["multi"], PRESETS[preset])) == counts
    body = LossPolicy.model_validate({"terms": [{"roles": ["assistant"], "parts": ["body"]}]})
    assert count(audit_chat(formatter, CHATS["multi"], body)) == (2, 0)
    assert not audit_chat(formatter, CHATS["multi"], PRESETS["text"]).counts["0"].trained
    closed = Conversation((ASK, Message("assistant", "x", train=False), ASK, ANSWER))
    assert count(audit_chat(formatter, closed)) == (1, 1)


@needs_families
def test_turns_that_are_cut_are_counted_apart() -> None:
    formatter = make_family("llama3_1")
    whole = formatter.format(CHATS["multi"])
    first, second = whole.turns
    for length in range(1, len(whole) + 1):
        expected: dict[str, Any] = {}
        if length >= first.end:
            expected |= {"trained": 1, "terminated": 1}
        if length >= second.end:
            expected |= {"trained": 2, "terminated": 2}
        if any(turn.start < length < turn.end for turn in whole.turns):
            expected["cut"] = 1
        counts = audit_tokens(formatter, truncate(whole, length)).counts.get("0", TurnCounts())
        assert counts.model_dump(exclude_defaults=True) == expected


@pytest.mark.parametrize(("history", "advises"), [("as_template", True), ("split", False)])
def test_nobody_is_told_to_set_what_is_set(history: str, advises: bool) -> None:
    turns = Turns(total=TurnCounts(trained=5, reasoning_dropped=1, not_served=2), sources={})
    warnings = list(turn_warnings(Manifest.model_construct(config={"reasoning_history": history}, turns=turns)))
    assert ["reasoning_history=split" in warning for warning in warnings] == [advises] * 2
