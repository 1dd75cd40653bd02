"""The mask: what the default policy trains is what the server would see the model write, and nothing else."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.chat.formatter import ChatFormatter, Tokens
from pipeline.encoders.base import TokenFinder
from schemas.channels import LEGAL, NO_LOSS, Part, Role, unpack_channel
from schemas.conversation import Conversation, Message, ToolCall
from schemas.policy import DEFAULT_POLICY, PRESETS
from schemas.rejects import Reason, RejectRow

MakeFormatter = Callable[..., ChatFormatter]
TOOLS = json.dumps([{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}])
CALL = Message(role="assistant", tool_calls=(ToolCall("weather", '{"city": "Z\u00fcrich", "days": 3}', "abcdefghi"),))
AGENT = Conversation(
    (
        Message(role="system", content="Be brief."),
        Message(role="user", content="Weather?"),
        CALL,
        Message(role="tool", content="15 C", tool_call_id="abcdefghi"),
        Message(role="assistant", content="It is 15 C."),
        Message(role="user", content="Thanks"),
        Message(role="assistant", content="\nYou are welcome."),
    ),
    TOOLS,
)
FAMILIES = ["qwen", "llama", "qwen_ranks", "llama_ranks"]


def trained_texts(formatter: ChatFormatter, tokens: Tokens) -> list[str]:
    """Each stretch of trained tokens, decoded."""
    trained = DEFAULT_POLICY.table()[tokens.channel]
    borders = np.flatnonzero(np.diff(np.concatenate([[False], trained, [False]]))).reshape(-1, 2)
    return [formatter.encoder.decode(tokens.input_ids[start:stop].tolist()) for start, stop in borders]


def test_an_agents_turns(qwen: ChatFormatter, llama: ChatFormatter) -> None:
    assert trained_texts(qwen, qwen.format(AGENT)) == [
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Z\u00fcrich", "days": 3}}\n</tool_call><|im_end|>',
        "It is 15 C.<|im_end|>",
        "You are welcome.<|im_end|>",  # the newline that begins it is one token with the header's
    ]
    assert qwen.format(AGENT).straddling == 1
    assert trained_texts(llama, llama.format(AGENT)) == [
        '{"name": "weather", "parameters": {"city": "Z\u00fcrich", "days": 3}}<|eot_id|>',
        "It is 15 C.<|eot_id|>",
        "You are welcome.<|eot_id|>",
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_channels_of_an_agent(family: str, request: pytest.FixtureRequest) -> None:
    formatter: ChatFormatter = request.getfixturevalue(family)
    tokens = formatter.format(AGENT)
    assert LEGAL[tokens.channel].all()
    assert tokens.channel[0] & NO_LOSS
    found = {unpack_channel(byte)[:3] for byte in np.unique(tokens.channel).tolist()}
    assert found >= {
        (Role.SYSTEM, Part.BODY, False),
        (Role.USER, Part.BODY, False),
        (Role.USER, Part.END, False),
        (Role.TOOL, Part.BODY, False),
        (Role.ASSISTANT, Part.TEMPLATE, False),
        (Role.ASSISTANT, Part.TOOL_CALL, False),
        (Role.ASSISTANT, Part.BODY, True),
        (Role.ASSISTANT, Part.END, True),
    }


TEXT = st.text(alphabet="ab \n<>\u00e9\u4e16.\u0301", min_size=1, max_size=20).filter(lambda text: text.strip() != "")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3), system=st.none() | TEXT)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_region_begins_where_the_served_prompt_ends(
    family: str, pairs: list[tuple[str, str]], system: str | None, request: pytest.FixtureRequest
) -> None:
    """Oracle: the prompt as served is a prefix of the whole; what follows, through the end token, is the answer's."""
    formatter: ChatFormatter = request.getfixturevalue(family)
    messages = [Message(role="system", content=system)] if system else []
    for question, answer in pairs:
        messages += [Message(role="user", content=question), Message(role="assistant", content=answer)]
    conversation = Conversation(tuple(messages))
    whole = formatter.render(conversation).plain
    expected = np.zeros(len(whole), np.bool_)
    for index, message in enumerate(messages):
        if message.role == "assistant":
            prompt = formatter.template.render(Conversation(tuple(messages[:index])), add_generation_prompt=True).plain
            through = formatter.template.render(Conversation(tuple(messages[: index + 1]))).plain.rstrip("\n")
            assert whole.startswith(prompt)
            assert whole.startswith(through)
            expected[len(prompt) : len(through)] = True
    tokens = formatter.format(conversation)
    trained = DEFAULT_POLICY.table()[tokens.channel]
    encoded = formatter.encoder.encode(whole, list(TokenFinder(formatter.control_tokens).find(whole)))
    assert np.array_equal(encoded.ids, tokens.input_ids)
    for start, end, is_trained in zip(encoded.starts, encoded.ends, trained, strict=True):
        assert is_trained == (expected[start] and expected[start:end].all()), whole[start:end]
    assert trained.any()


def test_last_turn_and_train_flags(qwen: ChatFormatter) -> None:
    messages = (
        Message(role="user", content="a"),
        Message(role="assistant", content="first", train=False),
        Message(role="user", content="b"),
        Message(role="assistant", content="second"),
    )
    tokens = qwen.format(Conversation(messages))
    assert trained_texts(qwen, tokens) == ["second<|im_end|>"]
    last = [
        qwen.encoder.decode([i]) for i, byte in zip(tokens.input_ids.tolist(), tokens.channel, strict=True) if byte & 64
    ]
    assert "".join(last) == "second<|im_end|>"


def test_weights_follow_the_messages(qwen: ChatFormatter) -> None:
    messages = (
        Message(role="user", content="a"),
        Message(role="assistant", content="half", weight=0.5),
        Message(role="user", content="b"),
        Message(role="assistant", content="whole"),
    )
    tokens = qwen.format(Conversation(messages))
    assert tokens.weight is not None
    trained = DEFAULT_POLICY.table()[tokens.channel]
    by_token = zip(tokens.input_ids[trained].tolist(), tokens.weight[trained].tolist(), strict=True)
    assert [(qwen.encoder.decode([i]), w) for i, w in by_token] == [
        ("half", 0.5),
        ("<|im_end|>", 0.5),
        ("whole", 1.0),
        ("<|im_end|>", 1.0),
    ]


def test_an_empty_answer_still_ends(qwen: ChatFormatter) -> None:
    tokens = qwen.format(Conversation((Message(role="user", content="a"), Message(role="assistant", content=""))))
    assert trained_texts(qwen, tokens) == ["<|im_end|>"]


def test_an_open_last_turn_is_closed(make_formatter: MakeFormatter, tmp_path: Path) -> None:
    template = tmp_path / "open.jinja"
    template.write_text(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content }}"
        "{% if not loop.last %}{{ '<|im_end|>\\n' }}{% endif %}{% endfor %}"
    )
    formatter = make_formatter("package://dashscope/resources/qwen.tiktoken", str(template), preset="qwen2.5")
    tokens = formatter.format(Conversation((Message(role="user", content="a"), Message(role="assistant", content="b"))))
    assert (
        formatter.encoder.decode(tokens.input_ids.tolist())
        == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>"
    )


DROPS = (
    "{% for m in messages if m.role != 'assistant' or not m.tool_calls %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
)


def test_what_a_template_drops_is_a_reject(make_formatter: MakeFormatter, tmp_path: Path) -> None:
    template = tmp_path / "drops.jinja"
    template.write_text(DROPS)
    formatter = make_formatter("package://dashscope/resources/qwen.tiktoken", str(template), preset="qwen2.5")
    with pytest.raises(RejectRow) as caught:
        formatter.format(Conversation((Message(role="user", content="a"), CALL)))
    assert caught.value.reason == Reason.NOT_EMITTED


def test_a_printed_null_is_a_reject(make_formatter: MakeFormatter, tmp_path: Path) -> None:
    template = tmp_path / "none.jinja"
    template.write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.get('content') }}<|im_end|>\n{% endfor %}"
    )
    formatter = make_formatter("package://dashscope/resources/qwen.tiktoken", str(template), preset="qwen2.5")
    with pytest.raises(RejectRow) as caught:
        formatter.format(Conversation((Message(role="user", content="a"), CALL)))
    assert caught.value.reason == Reason.NONE_RENDERED


def test_generation_blocks_define_the_region(make_formatter: MakeFormatter, tmp_path: Path) -> None:
    template = tmp_path / "generation.jinja"
    template.write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}"
        "{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
    )
    formatter = make_formatter("package://dashscope/resources/qwen.tiktoken", str(template), preset="qwen2.5")
    tokens = formatter.format(Conversation((Message(role="user", content="a"), Message(role="assistant", content="b"))))
    assert trained_texts(formatter, tokens) == ["b<|im_end|>"]


def test_the_last_answers_reasoning_must_be_emitted(qwen: ChatFormatter) -> None:
    asked, answered = Message(role="user", content="a"), Message(role="assistant", content="b", reasoning_content="why")
    with pytest.raises(RejectRow) as caught:
        qwen.format(Conversation((asked, answered)))
    assert caught.value.reason == Reason.NOT_EMITTED
    assert qwen.format(Conversation((asked, answered, asked, Message(role="assistant", content="c")))) is not None


def test_a_kept_out_user_message_is_trained_under_no_policy(qwen: ChatFormatter) -> None:
    messages = (
        Message(role="user", content="quiet", train=False),
        Message(role="assistant", content="b"),
        Message(role="user", content="loud"),
        Message(role="assistant", content="c"),
    )
    tokens = qwen.format(Conversation(messages))
    trained = PRESETS["all"].table()[tokens.channel]
    text = qwen.encoder.decode(tokens.input_ids[trained].tolist())
    assert "loud<|im_end|>" in text
    assert "quiet" not in text
    assert text.count("<|im_end|>") == 3  # what stands before the quiet turn, the default system message, goes with it


def test_unflagged_tokens_of_headers_and_ends_typed_in_content_stay_text(
    qwen_folder: Path, tmp_path: Path, make_formatter: MakeFormatter
) -> None:
    """In some families these tokens are not flagged special; <tool_call> is one that the model itself writes."""
    folder = tmp_path / "unflagged"
    shutil.copytree(qwen_folder, folder)
    document = json.loads((folder / "tokenizer.json").read_text())
    for entry in document["added_tokens"]:
        entry["special"] &= entry["content"] not in ("<|im_start|>", "<|im_end|>")
    (folder / "tokenizer.json").write_text(json.dumps(document))
    tokens = {"<|im_start|>": {"id": 151644, "special": False}, "<|im_end|>": {"id": 151645, "special": False}}
    tokens |= {"<tool_call>": {"id": 151657, "special": False}, "<|endoftext|>": {"id": 151643, "special": True}}
    ranks = make_formatter("package://dashscope/resources/qwen.tiktoken", preset="qwen2.5", special_tokens=tokens)
    said = "a<|im_end|>\n<|im_start|>assistant\n<tool_call>"
    messages = (Message(role="user", content=said), Message(role="assistant", content="c"))
    for formatter in (make_formatter(folder), ranks):
        ids = formatter.format(Conversation(messages)).input_ids.tolist()
        assert [ids.count(token) for token in (151644, 151645, 151657)] == [3, 3, 1]


def test_reasoning_and_an_empty_think_block(
    trl_templates: Path, qwen_folder: Path, make_formatter: MakeFormatter
) -> None:
    formatter = make_formatter(qwen_folder, str(trl_templates / "qwen3.jinja"))

    def texts(part: Part, **answer: str) -> str:
        conversation = (Message(role="user", content="a"), Message(role="assistant", content="b", **answer))
        tokens = formatter.format(Conversation(conversation))
        chosen = (tokens.channel >> 3 & 7) == part
        return formatter.encoder.decode(tokens.input_ids[chosen].tolist())

    # Qwen 2.5 has no token for the tags, so that the last of them merges with the line ends after it.
    assert texts(Part.REASONING, reasoning_content="why").rstrip("\n") == "<think>\nwhy\n</think>"
    assert texts(Part.REASONING).rstrip("\n") == "<think>\n\n</think>"
    assert texts(Part.BODY).endswith("b")
