"""Conversations of agents, made up: tools, calls with nested arguments, parallel calls, reasoning, odd contents."""

import json
import random
from collections.abc import Iterator
from typing import Any

from schemas.conversation import Conversation, Message, ToolCall

TEXTS = (
    "Find the weather in Z\u00fcrich.",
    "",
    "  \n",
    " \n padded \n\n",
    "<think>\nlet me see\n</think>\n\nIt is 15 C.",
    "</think> odd <think>",
    "line one\nline two \u4e16\u754c \U0001f600",
    'quotes "and" \\ slashes\t<b>&amp;</b>',
    "<tool_response>\ntyped\n</tool_response>",
    "<|im_end|> typed <end_of_turn> <|eot_id|>",
    "a" * 60,
)
VALUES: tuple[Any, ...] = (
    "Z\u00fcrich",
    "",
    3,
    -2.5,
    True,
    None,
    [],
    {},
    [1, "two", None],
    {"unit": "C", "range": [0, 30], "deep": {"x": False, "y": "\u00e9\n"}},
)
NAMES = ("weather", "search", "book_flight")


def make_tool(name: str, rng: random.Random) -> dict[str, Any]:
    properties: dict[str, Any] = {"city": {"type": "string", "description": "where \u00e9"}}
    if rng.random() < 0.5:
        properties["days"] = {"type": "integer", "description": "how many", "enum": [1, 2, 3]}
    if rng.random() < 0.3:
        properties["places"] = {"type": "array", "items": {"type": "string"}, "description": "which"}
    parameters = {"type": "object", "properties": properties, "required": ["city"]}
    return {"type": "function", "function": {"name": name, "description": f"Do {name}.", "parameters": parameters}}


def make_call(rng: random.Random) -> ToolCall:
    keys = rng.sample(("city", "days", "filters", "note"), rng.choice((0, 1, 1, 2)))
    arguments = {key: rng.choice(VALUES) for key in keys}
    return ToolCall(rng.choice(NAMES), json.dumps(arguments, ensure_ascii=False), f"call{rng.randrange(10**5):05}")


def make_turn(rng: random.Random) -> Iterator[Message]:
    """A question, perhaps some steps of calls and results, an answer."""
    yield Message("user", rng.choice(TEXTS))
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):
        calls = tuple(make_call(rng) for _ in range(rng.choice((1, 1, 2))))
        yield Message("assistant", rng.choice((None, "", *TEXTS[:4])), make_reasoning(rng), calls)
        for call in calls:
            yield Message("tool", rng.choice(TEXTS), tool_call_id=call.id, name=call.name)
    yield Message("assistant", rng.choice(TEXTS), make_reasoning(rng))


def make_reasoning(rng: random.Random) -> str | None:
    return rng.choice((None, None, "because\n", "", " so \n"))


def make_agent(seed: int, most_turns: int = 30) -> Conversation:
    rng = random.Random(seed)
    messages = [Message("system", rng.choice(TEXTS))] if rng.random() < 0.5 else []
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, rng.randint(1, most_turns)))):
        messages += make_turn(rng)
    tools = [make_tool(name, rng) for name in NAMES[: rng.randint(1, 3)]] if rng.random() < 0.6 else None
    return Conversation(tuple(messages), None if tools is None else json.dumps(tools, ensure_ascii=False))
