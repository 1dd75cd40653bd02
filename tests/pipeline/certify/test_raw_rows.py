"""Raw rows as requests, each by hand; and nothing of the pipeline's own conversion in them."""

import ast
import copy
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from pipeline.certify import raw_rows
from pipeline.certify.raw_rows import request_of
from pipeline.config import Transform

CALL = {"type": "function", "id": "c1", "function": {"name": "f", "arguments": '{"a": 1}'}}
TOOLS = [{"type": "function", "function": {"name": "f"}}]


def said(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


HI, YO = said("user", "Hi"), said("assistant", "Yo")

CASES: dict[str, tuple[dict[str, Any], dict[str, Any], Any]] = {
    "as it stands": ({"type": "openai"}, {"messages": [HI, YO]}, [HI, YO]),
    "loss and nulls are not sent": (
        {"type": "openai"},
        {"messages": [{**HI, "name": None}, {**YO, "weight": 0, "train": False, "mood": "fine"}]},
        [HI, {**YO, "mood": "fine"}],
    ),
    "parts": (
        {"type": "openai"},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, YO]},
        [said("user", "a\nb"), YO],
    ),
    "calls": (
        {"type": "openai"},
        {"messages": [HI, {"role": "assistant", "content": None, "tool_calls": [{**CALL, "index": 0}]}]},
        [HI, {"role": "assistant", "tool_calls": [CALL]}],
    ),
    "no calls": ({"type": "openai"}, {"messages": [HI, {**YO, "tool_calls": []}]}, [HI, YO]),
    "an old call": (
        {"type": "openai"},
        {"messages": [HI, {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}]},
        [
            HI,
            {
                "role": "assistant",
                "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
        ],
    ),
    "roles": (
        {"type": "openai", "roles": {"bot": "assistant"}},
        {"messages": [HI, said("bot", "Yo"), said("function", "r")]},
        [HI, YO, said("tool", "r")],
    ),
    "another system": (
        {"type": "openai", "system": "S"},
        {"messages": [said("developer", "d"), said("system", "x"), HI, YO]},
        [said("system", "S"), HI, YO],
    ),
    "prompt and completion": (
        {"type": "openai", "prompt_column": "p", "completion_column": "c"},
        {"p": "Hi", "c": [YO]},
        [HI, YO],
    ),
    "sharegpt": (
        {"type": "sharegpt"},
        {
            "system": "S",
            "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo", "weight": 1}],
        },
        [said("system", "S"), HI, YO],
    ),
    "sharegpt's calls": (
        {"type": "sharegpt", "column": "c"},
        {"c": [{"from": "function_call", "value": '{"name": "f", "arguments": {"a": 1}}'}]},
        [
            {
                "role": "assistant",
                "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}],
            }
        ],
    ),
    "columns": (
        {"type": "columns", "input": "{a} {{x}} {b c}", "output": "o", "system": "Count. Well."},
        {"a": 1, "b c": 2.5, "o": "Yo"},
        [said("system", "Count. Well."), said("user", "1 {x} 2.5"), YO],
    ),
    "a column of system messages": (
        {"type": "columns", "input": "a", "output": "o", "system": "s"},
        {"a": "Hi", "o": "Yo", "s": "S"},
        [said("system", "S"), HI, YO],
    ),
    "alpaca": (
        {"type": "alpaca", "system": "S"},
        {"instruction": "Hi", "input": "there", "output": "Yo"},
        [said("system", "S"), said("user", "Hi\n\nthere"), YO],
    ),
    "alpaca without an input": ({"type": "alpaca"}, {"instruction": "Hi", "input": "", "output": "Yo"}, [HI, YO]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_row_as_it_would_be_sent(name: str) -> None:
    settings, row, messages = CASES[name]
    before = copy.deepcopy(row)
    transform: Transform = TypeAdapter(Transform).validate_python(settings)
    context = {"tools": None, "documents": None, "kwargs": {}}
    assert request_of(row, transform, None) == {"messages": messages, **context}
    assert row == before


def test_what_a_row_gives_beside_its_messages() -> None:
    """Text as it stands, of objects no null keys."""
    transform: Transform = TypeAdapter(Transform).validate_python({"type": "openai"})
    row = {
        "messages": [HI],
        "tools": [{"type": "function", "function": {"name": "f", "strict": None}}],
        "documents": '[{"title": "T", "url": null}]',
        "chat_template_kwargs": {"effort": "low", "other": None},
    }
    assert request_of(row, transform, None) == {
        "messages": [HI],
        "tools": TOOLS,
        "documents": [{"title": "T", "url": None}],
        "kwargs": {"effort": "low"},
    }


@pytest.mark.parametrize(("tools", "expected"), [(TOOLS, TOOLS), ('[{"a": 1}]', [{"a": 1}]), ("", None), ([], None)])
def test_tools(tools: Any, expected: Any) -> None:
    transform: Transform = TypeAdapter(Transform).validate_python({"type": "openai"})
    assert request_of({"messages": [HI], "tools": tools}, transform, None)["tools"] == expected


def test_a_function_of_the_user() -> None:
    transform: Transform = TypeAdapter(Transform).validate_python(
        {"type": "custom", "function": "m:f", "args": {"tail": "!"}}
    )

    def spoil(row: dict[str, Any], tail: str) -> Any:
        row["messages"][0]["content"] += tail
        return row["messages"] if row["plain"] else row

    for plain in (True, False):
        row = {"messages": [copy.deepcopy(HI), YO], "plain": plain}
        assert request_of(row, transform, spoil)["messages"] == [said("user", "Hi!"), YO]
        assert row["messages"][0] == HI
    assert request_of({}, transform, lambda row, tail: "text" + tail) == {"text": "text!"}
    with pytest.raises(TypeError):
        request_of({}, transform, lambda row, tail: None)


def test_it_has_nothing_of_the_conversion() -> None:
    tree = ast.parse(Path(raw_rows.__file__).read_text("utf-8"))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {module for module in modules if module and module.startswith("pipeline")} == {"pipeline.config"}
