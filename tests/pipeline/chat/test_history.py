"""Templates that rewrite history: what `as_template` counts, and what `split` makes of it."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from families import FAMILIES, make_family
from template_cells import as_conversation
from template_chats import chats

from pipeline.chat.formatter import ChatFormatter, Tokens
from pipeline.chat.replay.template import ReplayingTemplate
from pipeline.chat.traced import Traced
from pipeline.config import BuildConfig
from pipeline.tokenize import DocumentTokenizer
from schemas.channels import LAST_TURN, NO_LOSS
from schemas.conversation import Conversation, Message, ToolCall
from schemas.policy import DEFAULT_POLICY, PRESETS
from schemas.rejects import RejectRow

TRAINED = DEFAULT_POLICY.table()
THINKING = ["qwen3", "qwen3_5_think", "glm4moe", "nemotron_3_nano", "gptoss", "lfm2_2_5", "qwen3_8", "muse_glimmer"]


@cache
def splitting(family: str) -> ChatFormatter:
    formatter = make_family(family)
    return ChatFormatter(
        formatter.template,
        formatter.encoder,
        [token.id for token in formatter._ends.stops],
        FAMILIES[family].eos,
        split_history=True,
    )


def thinking_chat(turns: int) -> Conversation:
    messages = []
    for number in range(turns):
        messages.append(Message("user", f"question {number}"))
        messages.append(Message("assistant", f"answer {number}", reasoning_content=f"thought {number}"))
    return Conversation(tuple(messages))


def agent(turns: int) -> Conversation:
    """One question, and a call with reasoning in each turn but the last."""
    messages = [Message("user", "question")]
    for number in range(turns - 1):
        call = ToolCall("weather", '{"city": "Bern"}', f"call{number:05d}")
        messages.append(Message("assistant", "", reasoning_content=f"thought {number}", tool_calls=(call,)))
        messages.append(Message("tool", f"result {number}", tool_call_id=call.id))
    return Conversation((*messages, Message("assistant", "done", reasoning_content="at last")))


def trained_text(formatter: ChatFormatter, tokens: Tokens) -> str:
    return formatter.encoder.decode(tokens.input_ids[TRAINED[tokens.channel]].tolist())


def test_as_template_counts_what_it_drops() -> None:
    """Qwen 3 keeps the reasoning of the last turn; the earlier prompts are served ones all the same."""
    turns = make_family("qwen3").format(thinking_chat(3)).turns
    assert [turn.reasoning_dropped for turn in turns] == [True, True, False]
    assert [turn.served for turn in turns] == [True, True, True]
    forced = make_family("qwen3_5_think").format(thinking_chat(3)).turns
    assert [turn.served for turn in forced] == [False, False, True]


@pytest.mark.parametrize("family", THINKING)
def test_split_trains_every_turn_as_it_was_written(family: str) -> None:
    """Reference: each turn on its own, as the last of the conversation that it ended."""
    formatter, conversation = splitting(family), thinking_chat(4)
    pieces = formatter.documents(conversation)
    trained = "".join(trained_text(formatter, piece) for piece in pieces)
    expected = []
    for number in range(1, 5):
        ended = replace(conversation, messages=conversation.messages[: 2 * number])
        alone = formatter.format(ended)
        start, end = alone.turns[-1].start, alone.turns[-1].end
        expected.append(formatter.encoder.decode(alone.input_ids[start:end].tolist()))
    assert trained == "".join(expected)
    assert all(not turn.reasoning_dropped for piece in pieces for turn in piece.turns)
    assert [turn.message for piece in pieces for turn in piece.turns] == [1, 3, 5, 7]
    rewrites = family not in ("qwen3_8", "muse_glimmer")
    assert len(pieces) == (4 if rewrites else 1)


@pytest.mark.parametrize("family", THINKING)
def test_what_follows_the_last_turn_does_not_rewrite_it(family: str) -> None:
    """A conversation that ends in a question: its last answer is trained as if that had not been asked."""
    formatter, conversation = splitting(family), thinking_chat(2)
    asked = replace(conversation, messages=(*conversation.messages, Message("user", "one more")))
    pieces, without = formatter.documents(asked), formatter.documents(conversation)
    trained = [trained_text(formatter, piece) for piece in pieces]
    assert "".join(trained) == "".join(trained_text(formatter, piece) for piece in without)
    assert not any(turn.reasoning_dropped for piece in pieces for turn in piece.turns)
    assert np.array_equal(pieces[-1].input_ids, make_family(family).format(asked).input_ids)
    assert len(pieces) == len(without) + (family not in ("qwen3_8", "muse_glimmer"))


@pytest.mark.parametrize("family", THINKING)
def test_no_token_is_trained_twice(family: str) -> None:
    """Under a policy that trains everything, what a piece repeats of earlier ones carries bit 7."""
    formatter = splitting(family)
    everything = PRESETS["all"].table()
    pieces = formatter.documents(thinking_chat(4))
    questions = [
        formatter.encoder.decode(piece.input_ids[everything[piece.channel]].tolist()).count("question")
        for piece in pieces
    ]
    assert sum(questions) == 4
    for piece in pieces[1:]:
        first = piece.turns[0].start
        assert (piece.channel[:first] & NO_LOSS).any()
    last = [bool((piece.channel & LAST_TURN).any()) for piece in pieces]
    assert last == [False] * (len(pieces) - 1) + [True]


@pytest.mark.parametrize(
    ("family", "turns"), [("qwen3", 100), ("glm4moe", 20), ("qwen3_5_think", 20), ("nemotron_3_nano", 20)]
)
def test_a_long_agent_is_one_document(family: str, turns: int) -> None:
    """Within one question these templates keep the reasoning: nothing is rewritten, and nothing repeated."""
    conversation = agent(turns)
    pieces = splitting(family).documents(conversation)
    assert len(pieces) == 1
    assert len(pieces[0].turns) == turns
    assert np.array_equal(pieces[0].input_ids, make_family(family).format(conversation).input_ids)


def test_renderings_are_linear_in_the_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    formatter = splitting("qwen3")
    rendered: list[int] = []
    render = ReplayingTemplate.render

    def counted(template: ReplayingTemplate, conversation: Conversation, **named: Any) -> Traced:
        rendered.append(len(conversation.messages))
        return render(template, conversation, **named)

    monkeypatch.setattr(ReplayingTemplate, "render", counted)
    counts = []
    for turns in (10, 20):
        rendered.clear()
        formatter.documents(agent(turns))
        counts.append(len(rendered))
    assert counts == [2 * 10, 2 * 20]


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in THINKING])
def test_split_agrees_with_the_whole_where_nothing_is_rewritten(family: str) -> None:
    compared = 0
    for kind, chat in chats("Hi", "Hello").items():
        conversation = as_conversation(chat)
        try:
            whole = make_family(family).format(conversation)
        except RejectRow:
            continue
        pieces = splitting(family).documents(conversation)
        assert sum(len(piece.turns) for piece in pieces) == len(whole.turns), kind
        if len(pieces) == 1:
            assert np.array_equal(pieces[0].input_ids, whole.input_ids)
            assert np.array_equal(pieces[0].channel, whole.channel)
            compared += 1
    assert compared


def test_pieces_without_a_trained_token_are_left_out() -> None:
    """Under `last_turn` the pieces of earlier answers have none."""
    config = BuildConfig.model_validate(
        {
            "output": "out",
            "seq_len": 4096,
            "sources": [{"path": "a", "transform": {"type": "openai"}}],
            "tokenizer": {"path": "t"},
            "loss_policy": "last_turn",
            "reasoning_history": "split",
        }
    )
    formatter = splitting("qwen3")
    (kept,) = DocumentTokenizer(config, formatter.encoder, formatter).tokenize(thinking_chat(3))
    assert np.array_equal(kept.input_ids, formatter.documents(thinking_chat(3))[-1].input_ids)
