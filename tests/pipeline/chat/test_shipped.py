"""Shipped templates against the official ones, on chats of all kinds, in order and out of it."""

import random
from datetime import date
from typing import Any

import pytest
from model_folders import trl_template

from pipeline.chat.shipped import shipped_template
from pipeline.chat.template import ChatTemplate
from schemas.rejects import RejectRow
from tests.support.chats import Chat, as_conversation

VARIABLES = {"bos_token": "<bos>", "eos_token": "<eos>"}
TOOLS = [
    {"type": "function", "function": {"name": "g", "description": "W \u00e9", "parameters": {"z": 1, "a": {"b": []}}}},
    {"type": "function", "function": {"parameters": {}, "name": "<h>"}},
]
CONTENTS = ["a", "b\n", "", " x ", "\u4e16\u754c", '{"b": 1, "a": 2}', "<|im_end|>", "{{ x }}"]
KWARGS: dict[str, list[dict[str, Any]]] = {
    "qwen2.5": [{}],
    "llama3.1": [{}, {"tools_in_user_message": False}, {"date_string": "1 May 2025"}, {"builtin_tools": ["search"]}],
}


def call(draw: random.Random) -> dict[str, Any]:
    arguments = draw.choice([{}, {"z": 1, "a": '\u00e9 "x"', "m": [None, 1.5, True]}, {"b": {"d": {}, "c": ""}}])
    return {
        "type": "function",
        "id": "abcdefghi",
        "function": {"name": draw.choice(["f", "search"]), "arguments": arguments},
    }


def random_message(draw: random.Random) -> dict[str, Any]:
    role = draw.choice(["system", "user", "user", "assistant", "assistant", "tool"])
    message: dict[str, Any] = {"role": role, "content": draw.choice(CONTENTS)}
    if role == "assistant" and draw.random() < 0.4:
        message["tool_calls"] = [call(draw) for _ in range(draw.choice([1, 1, 2]))]
        if draw.random() < 0.3:
            del message["content"]
    return message


def random_chats(count: int) -> list[Chat]:
    draw = random.Random(2)
    return [[random_message(draw) for _ in range(draw.randint(1, 6))] for _ in range(count)]


@pytest.mark.parametrize("name", ["qwen2.5", "llama3.1"])
def test_a_shipped_template_renders_what_the_official_one_renders(name: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    official = trl_template(name.replace(".", "_"))
    rendered = refused = called = 0
    for number, chat in enumerate(random_chats(400)):
        tools = TOOLS if number % 3 == 0 else None
        prompt = number % 2 == 0
        kwargs = KWARGS[name][number % len(KWARGS[name])]
        shipped = ChatTemplate(shipped_template(name).text, VARIABLES | kwargs, date(2024, 7, 26))
        made: str | None
        try:
            expected = render_jinja_template(
                [chat], tools=tools, chat_template=official, add_generation_prompt=prompt, **VARIABLES, **kwargs
            )[0][0]
        except Exception:  # a template refuses in any way it likes
            expected = None
        try:
            made = shipped.render(as_conversation(chat, tools), add_generation_prompt=prompt)
        except RejectRow:
            made = None
        assert made == expected, (chat, kwargs)
        rendered += expected is not None
        refused += expected is None
        called += expected is not None and any("tool_calls" in raw for raw in chat)
    assert rendered > 200
    assert called > 40


def test_chatml_is_a_plain_loop() -> None:
    shipped = ChatTemplate(shipped_template("chatml").text, VARIABLES, date(2024, 7, 26))
    compared = 0
    for chat in random_chats(100):
        if any("content" not in raw for raw in chat):
            continue
        text = "".join(f"<|im_start|>{raw['role']}\n{raw['content']}<|im_end|>\n" for raw in chat)
        conversation = as_conversation(chat, None)
        assert shipped.render(conversation) == text
        assert shipped.render(conversation, add_generation_prompt=True) == text + "<|im_start|>assistant\n"
        compared += 1
    assert compared > 50
