"""Mistral's shipped templates: the text of those that mistral-common generates, and the ids that it encodes."""

import json
import random
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from model_folders import package_file

from pipeline.chat.formatter import ChatFormatter
from pipeline.chat.shipped import shipped_template
from pipeline.chat.template import ChatTemplate
from schemas.policy import DEFAULT_POLICY
from schemas.rejects import RejectRow
from tests.support.chats import Chat, as_conversation

VARIABLES = {"bos_token": "<s>", "eos_token": "</s>"}
# Name of the template: whether it is for a sentencepiece model, its version, a tokenizer file where there is one.
TEMPLATES = {
    "mistral-v1": (True, "v1", "tokenizer.model.v1"),
    "mistral-v3": (True, "v3", "mistral_instruct_tokenizer_240323.model.v3"),
    "mistral-v7": (True, "v7", "mistral_instruct_tokenizer_241114.model.v7"),
    "mistral-v3-tekken": (False, "v3", "tekken_240911.json"),
    "mistral-v7-tekken": (False, "v7", None),
    "mistral-v11": (False, "v11", None),
    "mistral-v13": (False, "v13", None),
}
TOOLS = [
    {"type": "function", "function": {"name": "g", "description": "W \u00e9", "parameters": {"z": 1, "a": {"b": []}}}}
]


def call(number: int) -> dict[str, Any]:
    function = {"name": f"f{number}", "arguments": {"b": number, "a": "\u00e9 x"}}
    return {"type": "function", "id": f"abcdefgh{number}", "function": function}


def random_message(draw: random.Random) -> dict[str, Any]:
    role = draw.choice(["system", "user", "user", "assistant", "assistant", "tool"])
    content = draw.choice(["a", "b\n", "", "3", "3.0", "1.5", "nan", " x", '{"a": 1}'])
    message: dict[str, Any] = {"role": role, "content": content}
    if role == "assistant" and draw.random() < 0.4:
        message["tool_calls"] = [call(number) for number in range(draw.randint(1, 2))]
    if role == "tool":
        message["tool_call_id"] = draw.choice(["abcdefgh0", "abcdefgh0", "abcdefgh1", "short"])
    return message


def random_chats(count: int) -> list[Chat]:
    draw = random.Random(1)
    chats = [[random_message(draw) for _ in range(draw.randint(1, 5))] for _ in range(count)]
    return [[{"role": "user", "content": "q"}, *chat] if draw.random() < 0.7 else chat for chat in chats]


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_text_is_that_of_the_generated_template(name: str) -> None:
    """Also where messages of one role follow each other, and where a chat is refused."""
    pytest.importorskip("mistral_common")
    from mistral_common.integrations.chat_templates.chat_templates import generate_chat_template
    from mistral_common.tokens.tokenizers.base import TokenizerVersion
    from transformers.utils.chat_template_utils import render_jinja_template

    spm, version, _ = TEMPLATES[name]
    official = generate_chat_template(
        spm, TokenizerVersion[version], False, False, False, None, False, True, None, None, None
    )
    shipped = ChatTemplate(shipped_template(name).text, VARIABLES, date(2024, 7, 26))
    rendered = refused = 0
    for number, chat in enumerate(random_chats(300)):
        tools = TOOLS if number % 2 else None
        made: str | None
        try:
            expected = render_jinja_template([chat], tools=tools, chat_template=official, **VARIABLES)[0][0]
        except Exception:  # a template refuses in any way it likes
            expected = None
        try:
            made = shipped.render(as_conversation(chat, tools))
        except RejectRow:
            made = None
        assert made == expected, chat
        rendered += expected is not None
        refused += expected is None
    assert min(rendered, refused) > 80


@pytest.fixture(scope="session")
def write_tekken(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A file of a version that no package has: the first ranks of another's, and the control tokens of that version."""

    def write(version: str) -> Path:
        from mistral_common.tokens.tokenizers.tekken import Tekkenizer

        document = json.loads(package_file("mistral_common", "data/tekken_240911.json").read_text("utf-8"))
        document["vocab"] = document["vocab"][:20_000]
        document["config"] |= {"version": version, "default_vocab_size": 21_000, "num_vocab_tokens": 20_000}
        del document["image"]
        names = [str(token["token_str"].value) for token in Tekkenizer.DEPRECATED_SPECIAL_TOKENS]  # type: ignore[attr-defined]
        document["special_tokens"] = [
            {"rank": rank, "token_str": name, "is_control": True}
            for rank, name in enumerate([*names, "[CALL_ID]", "[ARGS]"])
        ]
        path = tmp_path_factory.mktemp("tekken") / "tekken.json"
        path.write_text(json.dumps(document))
        return path

    return write


RESULT = {"role": "tool", "tool_call_id": "abcdefgh0"}
CALLED = {"role": "assistant", "content": "", "tool_calls": [call(0)]}


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


# No answer ends in white space: mistral-common strips it there, its own templates do not.
PLAIN: list[Chat] = [
    [said("user", "Hi there"), said("assistant", "Hello!\n \u4e16\u754c x")],
    [said("user", "Hi\n"), said("assistant", " Hello"), said("user", "\u00e9 <s>?"), said("assistant", "ok")],
    [said("system", "Be [INST] brief. </s>"), said("user", "a\tb"), said("assistant", "[/INST] 1\n2\U0001f600")],
]
AGENT: list[Chat] = [
    [said("user", "a"), CALLED, {**RESULT, "content": "15 C"}, said("assistant", "It is 15 C.")],
    [said("user", "a"), CALLED, {**RESULT, "content": "15"}, said("assistant", "done"), said("user", "b"), CALLED],
    [
        said("user", "a"),
        {**CALLED, "tool_calls": [call(0), call(1)]},
        {**RESULT, "content": "[1, 2]"},
        {**RESULT, "content": "caf\u00e9", "tool_call_id": "abcdefgh1"},
        said("assistant", "done"),
    ],
]
JSON_RESULTS = {"mistral-v3", "mistral-v3-tekken"}  # mistral-common writes a result as JSON, its template as a string


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_ids_are_those_of_mistral_common(
    name: str, make_formatter: Callable[..., ChatFormatter], write_tekken: Callable[[str], Path]
) -> None:
    pytest.importorskip("mistral_common")
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.protocol.instruct.validator import ValidationMode
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    _, version, file = TEMPLATES[name]
    path = package_file("mistral_common", f"data/{file}") if file else write_tekken(version)
    formatter = make_formatter(path, name)
    oracle = MistralTokenizer.from_file(str(path), mode=ValidationMode.finetuning)
    compared = 0
    chats = PLAIN if version == "v1" else [*PLAIN, *AGENT]
    for chat in chats:
        if name in JSON_RESULTS and any(raw.get("content") == "[1, 2]" for raw in chat):
            continue
        for tools in (None, TOOLS) if version != "v1" else (None,):
            request = ChatCompletionRequest(messages=chat, tools=tools)
            tokens = formatter.format(as_conversation(chat, tools))
            assert tokens.input_ids.tolist() == oracle.encode_chat_completion(request).tokens, chat
            assert DEFAULT_POLICY.table()[tokens.channel].any()
            assert all(int(tokens.input_ids[turn.end - 1]) in formatter.end_ids for turn in tokens.turns)
            compared += 1
    assert compared >= (3 if version == "v1" else 10)
