"""Each policy on an agent's conversation: what it trains, against the rendering cut into named pieces by hand."""

import json
from typing import Any, NamedTuple

import pytest
from pydantic import TypeAdapter

from schemas.conversation import Conversation, Message, ToolCall
from schemas.policy import PRESETS, LossPolicy, PolicyField
from tests.support.families import make_family

TOOLS = json.dumps([{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}])
CALL = '{"name": "weather", "arguments": {"city": "Z\u00fcrich"}}'
POLICIES: dict[str, Any] = {
    **{name: name for name in PRESETS},
    "the last turn and the questions": [
        {"roles": ["assistant"], "turns": "last"},
        {"roles": ["user"], "parts": ["body", "end"]},
    ],
    "calls and results": [{"roles": ["assistant"], "parts": ["tool_call"]}, {"roles": ["tool"], "parts": ["body"]}],
    "reasoning of the last turn, every end": [{"parts": ["reasoning"], "turns": "last"}, {"parts": ["end"]}],
    "every body": [{"parts": ["body"]}],
}


class Piece(NamedTuple):
    text: str
    role: str = ""
    part: str = "template"
    last: bool = False


def said(role: str, text: str, header: str = "") -> list[Piece]:
    return [
        Piece(f"<|im_start|>{header or role}\n"),
        Piece(text, role, "body"),
        Piece("<|im_end|>", role, "end"),
        Piece("\n"),
    ]


def conversation(*, reasoning: bool) -> Conversation:
    def why(text: str) -> str | None:
        return text if reasoning else None

    return Conversation(
        (
            Message("user", "Thanks"),
            Message("assistant", "Welcome.", why("Dropped.")),
            Message("user", "Weather?"),
            Message("assistant", "I look", why("Look it up."), (ToolCall("weather", '{"city": "Z\u00fcrich"}'),)),
            Message("tool", "15 C"),
            Message("assistant", "It is 15 C.", why("So 15.")),
        ),
        TOOLS,
    )


def thought(text: str, *, last: bool) -> list[Piece]:
    tagged = Piece(f"<think>\n{text}\n</think>", "assistant", "reasoning", last)
    return [tagged, Piece("\n\n", "assistant", "markup", last)] if text else []


def pieces(whole: str, *, reasoning: bool) -> list[Piece]:
    """The rendering from its first user message on."""
    start = Piece("<|im_start|>assistant\n")
    after = whole[whole.index("<|im_start|>user\nThanks") :]
    made = [
        *said("user", "Thanks"),
        start,
        Piece("Welcome.", "assistant", "body"),
        Piece("<|im_end|>", "assistant", "end"),
        Piece("\n"),
        *said("user", "Weather?"),
        start,
        *thought("Look it up." if reasoning else "", last=False),
        Piece("I look", "assistant", "body"),
        Piece(f"\n<tool_call>\n{CALL}\n</tool_call>", "assistant", "tool_call"),
        Piece("<|im_end|>", "assistant", "end"),
        Piece("\n"),
        Piece("<|im_start|>user\n<tool_response>\n"),
        Piece("15 C", "tool", "body"),
        Piece("\n</tool_response>"),
        Piece("<|im_end|>", "tool", "end"),
        Piece("\n"),
        start,
        *thought("So 15." if reasoning else "", last=True),
        Piece("It is 15 C.", "assistant", "body", last=True),
        Piece("<|im_end|>", "assistant", "end", last=True),
        Piece("\n"),
    ]
    assert "".join(piece.text for piece in made) == after
    return made


def is_trained(policy: Any, piece: Piece) -> bool:
    """What the presets mean, in the plainest words; else the terms."""
    if policy == "assistant":
        return piece.role == "assistant"
    if policy == "all":
        return True
    if policy == "last_turn":
        return piece.role == "assistant" and piece.last
    if policy == "no_reasoning":
        return piece.role == "assistant" and piece.part != "reasoning"
    if policy == "text":
        return False
    return any(
        piece.role in term.get("roles", [piece.role])
        and piece.part in term.get("parts", [piece.part])
        and (term.get("turns") != "last" or piece.last)
        for term in policy
    )


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("family", ["qwen2_5", "qwen3"])
def test_a_policy_trains_its_pieces(family: str, name: str) -> None:
    """What stands before the first question, tool definitions among it, is left out of the comparison."""
    reasoning = family == "qwen3"
    formatter, chat = make_family(family), conversation(reasoning=reasoning)
    tokens = formatter.format(chat)
    whole = formatter.render(chat).plain
    cut = pieces(whole, reasoning=reasoning)
    skipped = len(whole) - sum(len(piece.text) for piece in cut)
    policy: LossPolicy = TypeAdapter(PolicyField).validate_python(POLICIES[name])
    encoded = formatter.encoder.encode(whole, None)
    trained = policy.table()[tokens.channel] & (encoded.starts >= skipped)
    expected = "".join(piece.text for piece in cut if is_trained(POLICIES[name], piece))
    assert formatter.encoder.decode(tokens.input_ids[trained].tolist()) == expected
    assert bool(expected) == (name != "text")
