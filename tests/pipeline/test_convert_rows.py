"""Blocks of rows to blocks of documents, and real rows through every dialect that they come in."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from pipeline.blocks import BlockKey, RowBlock
from pipeline.config import Columns, OpenAI, ShareGPT, Text, Transform
from pipeline.convert import convert_rows, make_converter
from schemas.conversation import Conversation, TextDocument
from schemas.rejects import Reason, Reject

DATA = Path(__file__).parents[3] / "shared" / "data"
KEY = BlockKey(3, 1, last=True)


def real_rows(name: str) -> list[dict[str, Any]]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"needs {name}")
    text = path.read_text()
    rows: list[dict[str, Any]] = (
        json.loads(text) if name.endswith(".json") else list(map(json.loads, text.splitlines()))
    )
    return rows


def test_each_row_gives_a_document_or_a_reject_in_its_place() -> None:
    text, columns = Text(type="text"), Columns(type="columns", input="a", output="b")
    read = Reject(0, 5, Reason.INVALID_JSON, "line")
    block = RowBlock(
        KEY,
        sources=[0, 1, 2, 2],
        positions=[0, 7, 9, 11],
        rows=[{"text": "x"}, {"a": "x", "b": "y"}, {"a": "x"}, {"text": "z"}],
        rejects=[read],
        bytes=99,
    )
    converters = [make_converter(settings, loss_weights=False) for settings in (columns, text)]
    made = convert_rows(block, converters, settings_of_source=[1, 0, 1])
    assert (made.key, made.bytes) == (KEY, 99)
    assert (made.sources, made.positions) == ([0, 1, 2], [0, 7, 11])
    assert made.documents[0] == TextDocument("x")
    assert isinstance(made.documents[1], Conversation)
    assert made.rejects[0] == read
    assert [(each.source, each.position, each.reason) for each in made.rejects[1:]] == [(2, 9, Reason.MISSING_COLUMN)]
    assert block.rejects == [read]


@pytest.mark.parametrize(
    ("name", "settings", "count"),
    [
        ("glaive_toolcall_en_demo.json", ShareGPT(type="sharegpt"), 300),
        (
            "gsm8k.jsonl",
            Columns(type="columns", input="question", output="answer", system="Solve it step by step."),
            7473,
        ),
        ("c4_demo.jsonl", Text(type="text"), 300),
    ],
)
def test_all_real_rows_convert(name: str, settings: Transform, count: int) -> None:
    rows = real_rows(name)
    block = RowBlock(KEY, [0] * len(rows), list(range(len(rows))), rows)
    made = convert_rows(block, [make_converter(settings, loss_weights=False)], [0])
    assert made.rejects == []
    assert made.positions == list(range(count))


def test_real_calls_keep_every_call_and_definition() -> None:
    rows = real_rows("glaive_toolcall_en_demo.json")
    convert = make_converter(ShareGPT(type="sharegpt"), loss_weights=False)
    calls = 0
    for row in rows:
        made = convert(row)
        assert isinstance(made, Conversation)
        assert len(made.messages) == len(row["conversations"])
        assert json.loads(made.tools or "[]") == json.loads(row["tools"])
        for message, item in zip(made.messages, row["conversations"], strict=True):
            assert item["from"] == "function_call" or message.content == item["value"]
            calls += len(message.tool_calls)
    assert calls == 211


@pytest.mark.parametrize("settings", [OpenAI(type="openai"), ShareGPT(type="sharegpt"), Text(type="text")])
def test_converters_can_be_pickled(settings: Transform) -> None:
    converter = make_converter(settings, loss_weights=True)
    assert pickle.loads(pickle.dumps(converter)) == converter
