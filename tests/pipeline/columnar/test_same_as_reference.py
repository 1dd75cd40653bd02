"""The law of the columnar path: whatever it writes is what the reference makes of the same rows."""

import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from agents import make_agent
from columnar_blocks import KEY, QWEN, assert_same, convert, make_tokenizers, plain_rows, with_sheets
from hard_texts import HARD_TEXTS
from model_folders import load_once, trl_template

from pipeline.blocks import DocumentBlock, RowBlock
from pipeline.chat.control_tokens import LITERAL
from pipeline.chat.formatter import ChatFormatter
from pipeline.chat.shipped import choose_template
from pipeline.chat.template import ChatTemplate
from pipeline.columnar.sample import difference
from pipeline.config import BuildConfig, ControlTokens
from pipeline.convert import convert_rows, make_converter
from pipeline.convert.plain import MixedDocuments
from pipeline.readers.table_rows import TableRows
from pipeline.tokenize import DocumentTokenizer, tokenize_documents
from schemas.conversation import Document

LLAMA = ("package://llama_models/llama3/tokenizer.model", "llama3")
TEMPLATES = {
    "qwen2_5": QWEN,
    "qwen3": QWEN,
    "qwen3_5_think": QWEN,
    "qwen3_instruct_2507": QWEN,
    "llama3": LLAMA,
    "llama3_1": LLAMA,
}
WORDS = ("def f(x):", "\n    return 1\n", " is", "a", "\u4e16\u754c", "1234", "\n\n", "  ", "</b>", "<think>", "don't")


def make_formatter(template: str, control_tokens: ControlTokens = LITERAL) -> ChatFormatter:
    path, preset = TEMPLATES.get(template, QWEN)
    loaded = load_once(path, preset)
    source = choose_template(template, None, None) if template == "chatml" else None
    text = source.text if source else trl_template(template)
    variables = {**loaded.special_tokens, "date_string": "26 Jul 2024"}
    return ChatFormatter(
        ChatTemplate(text, variables, date(2024, 7, 26)),
        loaded.encoder,
        loaded.stop_ids,
        loaded.special_tokens.get("eos_token"),
        control_tokens=control_tokens,
    )


def random_text(rng: random.Random) -> str:
    if rng.random() < 0.2:
        return rng.choice(HARD_TEXTS)
    return "".join(rng.choice(WORDS) for _ in range(rng.randint(1, 12)))


def random_rows(seed: int, count: int = 240) -> Iterator[dict[str, Any]]:
    """Few shapes, so that most rows have sheets; some rows are not plain."""
    rng = random.Random(seed)
    for _ in range(count):
        roles = ["system"] * (rng.random() < 0.3) + ["user", "assistant"] * rng.choice((1, 1, 2))
        messages: list[dict[str, Any]] = [{"role": role, "content": random_text(rng)} for role in roles]
        if rng.random() < 0.1:
            messages[-1]["train"] = False
        if rng.random() < 0.1:
            messages[-1]["reasoning_content"] = "so"
        yield {"messages": messages}


def listed(documents: Sequence[Document]) -> DocumentBlock:
    return DocumentBlock(KEY, [0] * len(documents), list(range(len(documents))), list(documents))


@pytest.mark.parametrize("template", [*TEMPLATES, "chatml"])
@pytest.mark.parametrize("too_long", ["reject", "truncate", "truncate_turns"])
def test_conversations(template: str, too_long: str) -> None:
    formatter = make_formatter(template)
    block = convert(list(random_rows(seed=5)))
    fast, reference = make_tokenizers(formatter, seq_len=90, too_long=too_long)
    expected = tokenize_documents(block, reference)
    assert_same(tokenize_documents(block, fast), expected)
    assert with_sheets(formatter, block) > 100
    assert len(expected) > 40
    assert expected.truncated > 10 or too_long == "reject"
    if too_long == "reject":
        assert len(expected.rejects) > 10


@pytest.mark.parametrize("mode", ["reject", "parse"])
def test_typed_control_tokens(mode: Any) -> None:
    formatter = make_formatter("qwen2_5", ControlTokens(mode=mode))
    block = convert(list(random_rows(seed=6)))
    fast, reference = make_tokenizers(formatter, control_tokens=mode)
    expected = tokenize_documents(block, reference)
    assert_same(tokenize_documents(block, fast), expected)
    assert any(reject.reason == "control_token" for reject in expected.rejects) == (mode == "reject")


@pytest.mark.parametrize("policy", ["assistant_without_end", "last_turn", "all"])
def test_policies(policy: str) -> None:
    terms = {
        "assistant_without_end": [{"roles": ["assistant"], "parts": ["body"]}],
        "last_turn": [{"roles": ["assistant"], "turns": "last"}],
        "all": [{"roles": ["system", "user", "assistant"], "parts": ["body", "end"]}],
    }
    block = convert(list(random_rows(seed=7, count=120)))
    fast, reference = make_tokenizers(make_formatter("qwen2_5"), loss_policy=terms[policy], seq_len=40)
    expected = tokenize_documents(block, reference)
    assert_same(tokenize_documents(block, fast), expected)
    assert bool(expected.turns.open_turns) == (policy == "assistant_without_end")


@pytest.mark.parametrize("template", ["qwen2_5", "qwen3", "llama3_1"])
@pytest.mark.parametrize("history", ["as_template", "split"])
def test_agents(template: str, history: str) -> None:
    """Shapes seen once are laid out by the reference and encoded with the others."""
    documents = [make_agent(seed, most_turns=4) for seed in range(60)]
    fast, reference = make_tokenizers(make_formatter(template), reasoning_history=history)
    expected = tokenize_documents(listed(documents), reference)
    assert_same(tokenize_documents(listed(documents), fast), expected)
    assert len(expected) > 20


@pytest.mark.parametrize("preset", [QWEN, LLAMA])
@pytest.mark.parametrize("too_long", ["reject", "truncate", "split"])
def test_texts(preset: tuple[str, str], too_long: str) -> None:
    rng = random.Random(8)
    rows = [{"text": random_text(rng) * rng.randint(1, 4)} for _ in range(150)]
    block = convert(rows, {"type": "text"})
    encoder = load_once(*preset).encoder
    config = BuildConfig.model_validate(
        {
            "output": "out",
            "seq_len": 24,
            "sources": [{"path": "a", "transform": {"type": "text"}}],
            "tokenizer": {"path": "t"},
            "too_long": too_long,
        }
    )
    expected = tokenize_documents(block, DocumentTokenizer(config, encoder, None))
    assert_same(tokenize_documents(block, DocumentTokenizer(config, encoder, None, encoder.batch())), expected)
    assert (expected.pieces > 0).sum() > 20 or too_long != "split"


@pytest.mark.parametrize(
    ("settings", "rows"),
    [
        ({"type": "columns", "input": "q", "output": "a"}, [{"q": "x y", "a": f"so {n}"} for n in range(20)]),
        ({"type": "columns", "input": "{q}!", "output": "a", "system": "Be brief."}, [{"q": "x", "a": 3}] * 20),
        (
            {"type": "alpaca", "system": "Act."},
            [{"instruction": "do", "input": "i" * (n % 2), "output": "o"} for n in range(30)],
        ),
        (
            {"type": "sharegpt"},
            [
                {"conversations": [{"from": "human", "value": "h"}, {"from": "gpt", "value": f"g{n}"}]}
                for n in range(20)
            ],
        ),
        (
            {"type": "openai", "prompt_column": "p", "completion_column": "c", "system": "New."},
            [
                {"p": [{"role": "system", "content": "Old."}, {"role": "user", "content": "u"}], "c": f"c{n}"}
                for n in range(20)
            ],
        ),
    ],
)
def test_transforms(settings: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    block = convert(rows, settings)
    assert isinstance(block.documents, MixedDocuments)
    assert len(block.documents.plain) == len(rows)
    config = BuildConfig.model_validate(
        {"output": "o", "seq_len": 8, "sources": [{"path": "a", "transform": settings}], "tokenizer": {"path": "t"}}
    )
    converter = make_converter(config.sources[0].transform, loss_weights=False)
    assert list(block.documents) == [converter(row) for row in rows]
    formatter = make_formatter("qwen2_5")
    fast, reference = make_tokenizers(formatter)
    assert_same(tokenize_documents(block, fast), tokenize_documents(block, reference))
    assert with_sheets(formatter, block) == len(rows)


@pytest.mark.parametrize(
    "settings", [{"type": "openai"}, {"type": "columns", "input": "q", "output": "a"}, {"type": "text"}]
)
def test_tables(settings: dict[str, Any]) -> None:
    """Rows of Parquet and Arrow files, read as columns, are the documents that their rows give one by one."""
    rng = random.Random(4)
    rows: list[dict[str, Any]] = [
        {**row, "q": rng.choice((None, "", "q")), "a": random_text(rng), "text": rng.choice((None, "t")), "tools": None}
        for row in random_rows(seed=4, count=90)
    ]
    table = TableRows(pa.Table.from_pylist(rows[:40]).to_batches() + pa.Table.from_pylist(rows[40:]).to_batches())
    config = BuildConfig.model_validate(
        {"output": "o", "seq_len": 8, "sources": [{"path": "a", "transform": settings}], "tokenizer": {"path": "t"}}
    )
    converter = make_converter(config.sources[0].transform, loss_weights=False)
    places = [0] * len(rows), list(range(len(rows)))
    found = convert_rows(RowBlock(KEY, *places, table), [converter], [0])
    expected = convert_rows(RowBlock(KEY, *places, list(table)), [converter], [0])
    assert list(found.documents) == list(expected.documents)
    assert (found.positions, found.rejects) == (expected.positions, expected.rejects)
    assert isinstance(found.documents, MixedDocuments)
    assert 10 < len(found.documents.plain) < len(rows)


def test_a_row_of_the_sample_is_what_the_reference_gives() -> None:
    """The comparison that every block makes, made here of all rows."""
    fast, reference = make_tokenizers(make_formatter("qwen3"), seq_len=64, too_long="truncate")
    block = convert(list(random_rows(seed=9)))
    assert fast.sheets is not None
    written = fast.sheets.tokenize(block)
    rows = np.unique(written.row).tolist()
    assert len(rows) > 100
    for row in rows:
        assert not difference(written.tokens_of(row), reference.tokenize(block.documents[row]))


def count_calls(function: Any, events: tuple[str, ...] = ("call", "c_call")) -> int:
    """Calls of functions written in Python, and of others."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in events

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls


def test_no_python_for_every_row_message_or_token() -> None:
    """A block of regular rows is tokenized in as many calls as a small one: a return to Python for every message, or
    every token, would show here."""
    fast, _ = make_tokenizers(make_formatter("qwen2_5"))
    fast.sheets = replace_encoder(fast)
    base = convert(plain_rows(64, turns=2, words=4))
    tokenize_documents(base, fast)  # learns the shape
    calls = {
        name: count_calls(lambda rows=rows: tokenize_documents(rows, fast))
        for name, rows in {
            "base": base,
            "rows": convert(plain_rows(512, turns=2, words=4)),
            "tokens": convert(plain_rows(64, turns=2, words=64)),
        }.items()
    }
    assert calls["base"] > 100
    assert calls["rows"] < calls["base"] + 512
    assert calls["tokens"] < calls["base"] * 1.1


def test_conversion_calls_python_a_few_times_a_row_whatever_its_messages() -> None:
    few, many = plain_rows(200, turns=1, words=2), plain_rows(200, turns=20, words=2)
    calls = {len(rows[0]["messages"]): count_calls(lambda rows=rows: convert(rows), ("call",)) for rows in (few, many)}
    assert 200 < calls[2] < 200 * 25
    assert calls[40] < calls[2] * 1.2


def replace_encoder(tokenizer: DocumentTokenizer) -> Any:
    """With an engine that encodes a block in one call, as a fast one does."""
    assert tokenizer.sheets is not None
    encoder = tokenizer.sheets._encoder
    batch = encoder.batch

    class OneCall:
        name, sizes = batch.name, batch.sizes

        def encode(self, texts: Any) -> Any:
            sys_profile = sys.getprofile()
            sys.setprofile(None)
            try:
                return batch.encode(texts)
            finally:
                sys.setprofile(sys_profile)

    encoder.batch = OneCall()
    return tokenizer.sheets


def test_documents_may_be_asked_for_one_by_one() -> None:
    rows = list(random_rows(seed=3, count=30))
    block = convert(rows)
    assert isinstance(block.documents, MixedDocuments)
    assert 0 < len(block.documents.plain) < len(rows)
    documents = list(block.documents)
    assert [block.documents[index] for index in range(len(documents))] == documents
    assert block.documents[2:5] == documents[2:5]
    assert block.documents[-1] == documents[-1]
    assert replace(block, documents=documents).documents == documents


def test_reasoning_that_is_left_out_with_all_of_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """One program writes rows whose first answer is nothing but a thought, and rows where even that is empty."""
    monkeypatch.setattr("pipeline.tokenize.check_sample", lambda *_: None)
    formatter = make_formatter("glm4moe")
    rows = plain_rows(60, turns=2, words=2)
    for number, row in enumerate(rows):
        row["messages"][1]["content"] = "</think>" if number < 30 else "so</think>"
    block = convert(rows)
    fast, reference = make_tokenizers(formatter)
    expected = tokenize_documents(block, reference)
    assert_same(tokenize_documents(block, fast), expected)
    assert expected.turns.counts["0"].reasoning_dropped == 30


def test_rows_of_which_the_template_writes_more_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.tokenize.check_sample", lambda *_: None)
    loaded = load_once(*QWEN)
    text = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n" + "{{ m.content }} " * 120 + "<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    formatter = ChatFormatter(ChatTemplate(text, {}, date(2024, 7, 26)), loaded.encoder, loaded.stop_ids, "<|im_end|>")
    rows = plain_rows(20, turns=1, words=2)
    rows[10]["messages"][0]["content"] = "ab " * 30_000
    block = convert(rows)
    fast, reference = make_tokenizers(formatter)
    expected = tokenize_documents(block, reference)
    assert_same(tokenize_documents(block, fast), expected)
    assert [reject.reason for reject in expected.rejects] == ["template_error"]
