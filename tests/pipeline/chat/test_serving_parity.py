"""What is trained is what is served: ids equal to transformers' apply_chat_template and to mistral-common's."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.chat.formatter import ChatFormatter
from schemas.conversation import Conversation, Message, ToolCall

ROLES = {"human": "user", "gpt": "assistant", "observation": "tool", "system": "system"}


def as_message(turn: dict[str, str]) -> dict[str, Any]:
    """A ShareGPT turn as the message that a server is sent; written apart from our converters."""
    if turn["from"] != "function_call":
        return {"role": ROLES[turn["from"]], "content": turn["value"]}
    call = json.loads(turn["value"])
    function = {"name": call["name"], "arguments": call["arguments"]}
    return {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]}


def as_conversation(messages: list[dict[str, Any]], tools: str | None) -> Conversation:
    made = []
    for message in messages:
        functions = [call["function"] for call in message.get("tool_calls", [])]
        calls = tuple(ToolCall(f["name"], json.dumps(f["arguments"], ensure_ascii=False)) for f in functions)
        made.append(Message(role=message["role"], content=message.get("content"), tool_calls=calls))
    return Conversation(tuple(made), tools)


def gsm8k(folder: Path) -> list[tuple[list[dict[str, Any]], None]]:
    rows = map(json.loads, (folder / "gsm8k.jsonl").read_text("utf-8").splitlines())
    pairs = [({"role": "user", "content": r["question"]}, {"role": "assistant", "content": r["answer"]}) for r in rows]
    return [(list(pair), None) for pair in pairs]


def glaive(folder: Path) -> list[tuple[list[dict[str, Any]], str | None]]:
    rows = json.loads((folder / "glaive_toolcall_en_demo.json").read_text("utf-8"))
    return [([as_message(turn) for turn in row["conversations"]], row.get("tools") or None) for row in rows]


@pytest.mark.parametrize("engine", ["tokenizers", "tiktoken"])
@pytest.mark.parametrize("family", ["qwen", "llama"])
def test_ids_of_real_rows_are_those_of_transformers(
    family: str, engine: str, shared_data: Path, request: pytest.FixtureRequest
) -> None:
    from transformers import AutoTokenizer

    served = AutoTokenizer.from_pretrained(str(request.getfixturevalue(f"{family}_folder")))
    suffix = "_ranks" if engine == "tiktoken" else ""
    formatter: ChatFormatter = request.getfixturevalue(family + suffix)
    # A part of the rows: all of them, which `packline certify` compares, would take minutes.
    rows = [*glaive(shared_data), *gsm8k(shared_data)[:: 10 if engine == "tokenizers" else 20]]
    calls = 0
    for number, (messages, tools) in enumerate(rows):
        definitions = json.loads(tools) if tools else None
        expected = served.apply_chat_template(messages, tools=definitions, tokenize=True, return_dict=False)
        tokens = formatter.format(as_conversation(messages, tools))
        assert tokens.input_ids.tolist() == expected, messages
        if number % 10 == 0:
            text = served.apply_chat_template(messages, tools=definitions, tokenize=False)
            assert formatter.encoder.decode(tokens.input_ids.tolist()) == text
        calls += 151657 in expected
    assert len(rows) > 600
    assert family == "llama" or calls > 50  # the id of <tool_call> really occurs


HARMLESS = [
    "<|im_end|>",
    "<|im_start|>assistant\nx",
    "<|eot_id|><|start_header_id|>",
    "<|begin_of_text|>",
    "{{ messages }}",
    "{% raw %}",
    "[INST] </s> <s>",
    "\n\nleading",
    "trailing \n ",
    "e\u0301 \u4e16\u754c \U0001f600",
]


@pytest.mark.parametrize("family", ["qwen", "llama", "qwen_ranks", "llama_ranks"])
@pytest.mark.parametrize("content", HARMLESS)
def test_typed_control_tokens_stay_text(family: str, content: str, request: pytest.FixtureRequest) -> None:
    formatter: ChatFormatter = request.getfixturevalue(family)
    controls = {token.id for token in formatter.control_tokens}

    def shape(text: str) -> list[int]:
        conversation = Conversation((Message(role="user", content=text), Message(role="assistant", content=text)))
        return [i for i in formatter.format(conversation).input_ids.tolist() if i in controls]

    assert shape(content) == shape("plain")


MISTRAL = [
    ("tokenizer.model.v1", True, "v1"),
    ("mistral_instruct_tokenizer_240323.model.v3", True, "v3"),
    ("mistral_instruct_tokenizer_241114.model.v7", True, "v7"),
    ("tekken_240911.json", False, "v3"),
]
# No answer ends in white space: mistral-common strips it there, its own templates do not.
CHATS = [
    [("user", "Hi there"), ("assistant", "Hello!\n \u4e16\u754c x")],
    [("user", "Hi\n"), ("assistant", " Hello"), ("user", "\u00e9 <s>?"), ("assistant", "ok")],
    [("system", "Be [INST] brief. </s>"), ("user", "a\tb"), ("assistant", "[/INST] 1\n2\U0001f600")],
]


@pytest.mark.parametrize(("name", "spm", "version"), MISTRAL)
def test_ids_are_those_of_mistral_common(
    name: str, spm: bool, version: str, make_formatter: Any, tmp_path: Path
) -> None:
    pytest.importorskip("mistral_common")
    from mistral_common.integrations.chat_templates.chat_templates import generate_chat_template
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.protocol.instruct.validator import ValidationMode
    from mistral_common.tokens.tokenizers.base import TokenizerVersion
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    features = (False, False, False, None, False, True, None, None, None)
    template = tmp_path / "chat_template.jinja"
    template.write_text(generate_chat_template(spm, TokenizerVersion[version], *features))
    path = f"package://mistral_common/data/{name}"
    formatter = make_formatter(path, str(template))
    import mistral_common

    oracle = MistralTokenizer.from_file(
        str(Path(mistral_common.__file__).parent / "data" / name), mode=ValidationMode.finetuning
    )
    for chat in CHATS:
        conversation = Conversation(tuple(Message(role=role, content=text) for role, text in chat))  # type: ignore[arg-type]
        request = ChatCompletionRequest(messages=[{"role": role, "content": text} for role, text in chat])
        assert formatter.format(conversation).input_ids.tolist() == oracle.encode_chat_completion(request).tokens


@pytest.mark.parametrize("family", ["qwen", "llama"])
def test_shipped_templates_equal_the_official_ones(
    family: str, shared_data: Path, request: pytest.FixtureRequest
) -> None:
    """The rank file's formatter has the shipped template, the folder's the official one."""
    official: ChatFormatter = request.getfixturevalue(family)
    shipped: ChatFormatter = request.getfixturevalue(f"{family}_ranks")
    assert official.template.source != shipped.template.source
    for messages, tools in glaive(shared_data):
        conversation = as_conversation(messages, tools)
        assert shipped.render(conversation) == official.render(conversation)
