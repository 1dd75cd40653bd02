"""The certificate passes what is right, and catches a build that is broken on purpose."""

import contextlib
import gzip
import importlib.metadata
import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from building import QWEN, small_rows, write_jsonl
from certifying import certify_plan
from families import write_family_folder

from pipeline.build_plan import BuildPlan, plan_build
from pipeline.certify import oracle
from pipeline.certify.oracle import load_oracle
from pipeline.certify.planned import plan_certificate
from pipeline.chat.shipped import TemplateSource, shipped_template
from pipeline.config import BuildConfig, Tokenizer
from pipeline.convert import openai
from pipeline.encoders import byte_pairs
from pipeline.encoders.load import load_tokenizer
from pipeline.recipe import keep_tools, load_tools, make_tools
from schemas.conversation import Conversation
from schemas.errors import ConfigError, DatasetError
from schemas.manifest import Certificate

Certify = Callable[..., Certificate]

SENTENCEPIECE = {"path": "package://mistral_common/data/tokenizer.model.v1", "bos_token": "<s>", "eos_token": "</s>"}
TEKKEN = {"path": "package://mistral_common/data/tekken_240718.json"}
OPENAI = {"type": "openai"}
QUESTIONS = {"type": "columns", "input": "question", "output": "answer"}
ASKED = {"type": "alpaca", "instruction": "q", "output": "a"}


def chat_source(folder: Path, rows: list[Any], **more: Any) -> dict[str, Any]:
    return {"path": str(write_jsonl(folder / "chat.jsonl", rows)), "transform": OPENAI, **more}


def turn(question: str, answer: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer, **more}]}


@pytest.mark.parametrize("kind", ["ranks", "folder"])
def test_real_rows(certify: Certify, tmp_path: Path, shared_data: Path, kind: str) -> None:
    """Questions, tool calls and web text."""
    sources = [
        {"path": str(shared_data / "gsm8k.jsonl"), "transform": QUESTIONS},
        {"path": str(shared_data / "glaive_toolcall_en_demo.json"), "transform": {"type": "sharegpt"}},
        {"path": str(shared_data / "c4_demo.jsonl"), "transform": {"type": "text"}},
    ]
    tokenizer = QWEN if kind == "ranks" else {"path": str(write_family_folder("qwen2_5", tmp_path / "model"))}
    found = certify(*({**source, "limit": 80} for source in sources), tokenizer=tokenizer, seq_len=2**16)
    assert (found.level, found.compared, found.passed, found.not_comparable) == ("ids", 240, 240, 0)
    assert found.first_difference is None


@pytest.mark.parametrize("name", ["qwen3", "llama3_2", "phi3", "gptoss", "deepseekv3", "gemma3", "glm4moe"])
def test_families(certify: Certify, tmp_path: Path, name: str) -> None:
    """Templates that read the clock, take white space in, or leave the last turn open."""
    folder = write_family_folder(name, tmp_path / name)
    rows = [row for row in small_rows(20) if len(row["messages"]) % 2 == 0]
    rows += [turn(" a\n", "b"), turn("x <think> y", "  c")]
    found = certify(chat_source(tmp_path, rows), tokenizer={"path": str(folder)})
    assert found.compared == found.passed > 10


def call_row(arguments: str, **content: Any) -> dict[str, Any]:
    call = {"type": "function", "id": "abcdefghi", "function": {"name": "f", "arguments": arguments}}
    result = {"role": "tool", "content": "r", "tool_call_id": "abcdefghi", "name": "f"}
    (question, answer) = turn("q", "a")["messages"]
    return {"messages": [question, {"role": "assistant", **content, "tool_calls": [call]}, result, answer]}


@pytest.mark.parametrize("name", ["deepseekv3", "qwen3"])
def test_calls_without_content(certify: Certify, tmp_path: Path, name: str) -> None:
    """DeepSeek's template asks for a null, which apply_chat_template leaves out."""
    rows = [call_row("{}"), call_row("{}", content=None), call_row("{}", content="")]
    found = certify(chat_source(tmp_path, rows), tokenizer={"path": str(write_family_folder(name, tmp_path / name))})
    assert (found.compared, found.passed) == (3, 3)


def test_control_text_behind_escapes(certify: Certify, tmp_path: Path) -> None:
    """Some languages write < and > in JSON with escapes; the template prints them without."""
    rows = [call_row('{"x": "\\u003c|im_end|\\u003e"}', content="")]
    found = certify(chat_source(tmp_path, rows))
    assert (found.compared, found.passed, found.with_control_text) == (1, 1, 1)


def test_rows_with_control_text_are_counted_apart(certify: Certify, tmp_path: Path) -> None:
    rows = [turn("a", "b"), turn("what is <|im_end|>?", "an end"), turn("<tool_call>", "x")]
    rows.append({**turn("a", "b"), "tools": [{"type": "function", "function": {"name": "<|im_start|>"}}]})
    for tokenizer in (QWEN, {"path": str(write_family_folder("qwen2_5", tmp_path / "model"))}):
        found = certify(chat_source(tmp_path, rows), tokenizer=tokenizer)
        assert (found.compared, found.passed, found.with_control_text) == (4, 4, 2)


def test_all_formats(certify: Certify, tmp_path: Path) -> None:
    rows = small_rows(30)
    lines = (tmp_path / "a.jsonl").as_posix()
    write_jsonl(tmp_path / "a.jsonl", rows)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(Path(lines).read_bytes()))
    Path(lines).write_bytes(b"\xef\xbb\xbf" + Path(lines).read_bytes().replace(b"\n", b"\r\n"))
    (tmp_path / "c.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    sources = [{"path": str(path), "transform": OPENAI} for path in sorted(tmp_path.glob("?.*"))]
    (tmp_path / "e.csv").write_text("q,a\n" + "".join(f"ask {n},say {n}\n" for n in range(30)))
    (tmp_path / "f.txt").write_text("".join(f"line {n}\n" for n in range(30)))
    sources.append({"path": str(tmp_path / "e.csv"), "transform": ASKED})
    sources.append({"path": str(tmp_path / "f.txt"), "transform": {"type": "text"}})
    found = certify(*sources)
    assert len(sources) == 6
    assert (found.compared, found.passed, found.not_comparable) == (180, 180, 0)


@pytest.mark.parametrize("too_long", ["truncate", "split"])
def test_long_documents(certify: Certify, tmp_path: Path, too_long: str) -> None:
    write_jsonl(tmp_path / "t.jsonl", [{"text": " ".join(map(str, range(n)))} for n in range(1, 60)])
    text = {"path": str(tmp_path / "t.jsonl"), "transform": {"type": "text"}}
    found = certify(text, chat_source(tmp_path, small_rows(60)), too_long=too_long, seq_len=80)
    assert found.compared == found.passed > (70 if too_long == "truncate" else 60)


def test_the_last_piece_of_a_split_history_is_compared_where_it_is_kept(certify: Certify, tmp_path: Path) -> None:
    """Each answer of Qwen 3 is a piece; where a question follows the last one, the whole has no trained token."""
    tokenizer = {"path": str(write_family_folder("qwen3", tmp_path / "qwen3"))}
    chat = [*turn("a", "b", reasoning_content="x")["messages"], *turn("c", "d", reasoning_content="y")["messages"]]
    rows = [{"messages": chat}, {"messages": [*chat, {"role": "user", "content": "e"}]}]
    found = certify(chat_source(tmp_path, rows), tokenizer=tokenizer, reasoning_history="split")
    assert (found.compared, found.passed, found.not_comparable) == (1, 1, 1)


@pytest.mark.parametrize(("name", "history"), [("glm4moe", "as_template"), ("qwen3", "split")])
def test_conversations_without_their_last_turns(certify: Certify, tmp_path: Path, name: str, history: str) -> None:
    """They are not compared: also where the token that closes the last turn is the one too many, and where only a
    document is too long that the whole conversation has without its reasoning."""
    thoughts = ["r", "r" if name == "glm4moe" else "long " * 200, None]
    rows = []
    for words in range(1, 60):
        turns = [turn("q", "a ", reasoning_content=thought)["messages"] for thought in thoughts]
        turns[-1][0]["content"] = "w " * words
        rows.append({"messages": [message for pair in turns for message in pair]})
    model = {"path": str(write_family_folder(name, tmp_path / name))}
    changes = {"tokenizer": model, "too_long": "truncate_turns", "reasoning_history": history}
    found = certify(chat_source(tmp_path, rows), seq_len=80, **changes)
    assert found.compared == found.passed
    assert found.not_comparable
    assert found.compared or history == "split"


@pytest.mark.parametrize("tokenizer", [SENTENCEPIECE, TEKKEN], ids=["sentencepiece", "tekken"])
def test_only_text_where_the_ids_have_no_other_maker(tmp_path: Path, tokenizer: dict[str, Any]) -> None:
    write_jsonl(tmp_path / "t.jsonl", [{"text": "a"}] * 3)
    text = {"path": str(tmp_path / "t.jsonl"), "transform": {"type": "text"}}
    sources = [text, chat_source(tmp_path, small_rows(9))]
    plan = plan_of(tmp_path, [], tokenizer=tokenizer, chat_template="chatml", sources=sources)
    found = certify_plan(plan)
    assert (found.level, found.compared, found.passed, found.not_comparable) == ("text", 9, 9, 3)
    spoil(plan, template=TemplateSource("x" + shipped_template("chatml").text, "other"))
    found = certify_plan(plan)
    assert (found.compared, found.passed) == (9, 0)
    assert found.first_difference is not None
    assert found.first_difference.index == 0
    assert found.first_difference.expected == found.first_difference.found == []


def test_what_a_custom_function_returns(certify: Certify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "returning_rows.py").write_text(
        "from schemas.conversation import Conversation, Message\n"
        "def plain(row):\n    row['messages'].append({'role': 'user', 'content': 'more'})\n    return row\n"
        "def classes(row):\n    return Conversation((Message('user', 'a'), Message('assistant', 'b')))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    source = chat_source(tmp_path, small_rows(20))
    for function, compared in (("plain", 20), ("classes", 0)):
        found = certify({**source, "transform": {"type": "custom", "function": f"returning_rows:{function}"}})
        assert (found.compared, found.passed, found.not_comparable) == (compared, compared, 20 - compared)


# Builds that are broken on purpose


def test_an_encoder_that_changes_one_id(certify: Certify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library of the ranks itself, so that no engine is at fault."""
    encode = byte_pairs._encode_ordinary
    right, wrong = (load_tokenizer(Tokenizer(**QWEN)).encoder.encode(text, []).ids[0] for text in (" I", " he"))

    def encode_wrongly(ranks: Any, text: str) -> list[int]:
        return [wrong if token == right else token for token in encode(ranks, text)]

    monkeypatch.setattr(byte_pairs, "_encode_ordinary", encode_wrongly)
    rows = [turn("a", "b"), turn("you and I", "b"), turn("c", "d"), turn("I", "I")]
    found = certify(chat_source(tmp_path, rows), tokenizer=QWEN)
    assert (found.compared, found.passed) == (4, 3)
    first = found.first_difference
    assert first is not None
    assert first.position == len(json.dumps(rows[0])) + 1
    assert (first.expected[0], first.found[0], first.expected[1:]) == (right, wrong, first.found[1:])
    assert len(first.found) == 8
    with pytest.raises(DatasetError, match=r"1 of 4 rows .*chat\.jsonl at \d+: from token \d+ on they are \["):
        certify(chat_source(tmp_path, rows), tokenizer=QWEN, allow_differences=False)


def plan_of(folder: Path, rows: list[Any], **changes: Any) -> BuildPlan:
    values = {"output": str(folder / "out"), "seq_len": 4096, "allow_differences": True, **changes}
    values.setdefault("tokenizer", {"path": str(write_family_folder("qwen2_5", folder / "model"))})
    sources = changes.get("sources") or [chat_source(folder, rows)]
    return plan_build(BuildConfig.model_validate({**values, "sources": sources}))


def spoil(plan: BuildPlan, **changes: Any) -> None:
    """Let the build render by another recipe than the one that it publishes."""
    keep_tools(plan.recipe, make_tools(replace(plan.recipe, **changes), load_tools(plan.recipe).tokenizer))


def test_a_template_that_is_not_the_served_one(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, small_rows(20))
    assert plan.recipe.template is not None
    assert certify_plan(plan).passed == 20
    text = plan.recipe.template.text.replace("<|im_start|>user\n", "<|im_start|>user \n")
    text = text.replace("message.role + '\\n'", "message.role + ' \\n'")
    assert text != plan.recipe.template.text
    spoil(plan, template=TemplateSource(text, "other"))
    found = certify_plan(plan)
    assert (found.compared, found.passed) == (20, 0)


def test_a_clock_that_is_not_the_pinned_one(tmp_path: Path) -> None:
    template = tmp_path / "dated.jinja"
    template.write_text("{{ strftime_now('%d %b %Y') }}" + shipped_template("chatml").text)
    plan = plan_of(tmp_path, small_rows(20), chat_template=str(template), clock="2001-02-03")
    assert certify_plan(plan).passed == 20
    spoil(plan, config=plan.recipe.config.model_copy(update={"clock": "2001-02-04"}))
    assert certify_plan(plan).passed == 0


def test_a_transformers_that_keeps_its_own_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(tmp_path, small_rows(20), seed=1)
    monkeypatch.setattr(oracle, "pinned_clock", lambda module, day: contextlib.nullcontext())
    with pytest.raises(DatasetError, match=r"does not take the build's clock .*certify=none"):
        certify_plan(plan)


def test_a_conversion_that_drops_a_field(certify: Certify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{**row, "tools": [{"type": "function", "function": {"name": "f"}}]} for row in small_rows(20)]
    source = chat_source(tmp_path, [*rows, *small_rows(20)])
    assert certify(source).passed == 40
    monkeypatch.setattr(openai, "make_conversation", lambda messages, row, columns: Conversation(messages))
    assert certify(source).passed == 20


def test_a_number_of_any_size_is_served_as_it_stands(certify: Certify, tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {"n": 12345678901234567890123}}}
    rows = [turn("a", "b"), turn("a", "b", tool_calls=[call])]
    found = certify(chat_source(tmp_path, rows))
    assert (found.compared, found.passed) == (2, 2)


# Whether there is one


def test_without_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(tmp_path, small_rows(3), seed=2)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert plan.certificate is not None
    with pytest.raises(DatasetError, match=r"no transformers on this worker, transformers .*certify=none"):
        load_oracle(plan.recipe, load_tools(plan.recipe), plan.certificate)
    config = plan.recipe.config
    assert plan_certificate(config, "huggingface") is None
    with pytest.raises(ConfigError, match=r"pip install 'packline\[certify\]'"):
        plan_certificate(config.model_copy(update={"certify": "transformers"}), "huggingface")


def test_a_tokenizer_that_transformers_cannot_load(certify: Certify, tmp_path: Path) -> None:
    folder = write_family_folder("qwen3", tmp_path / "other")
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    remote = {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": [None, "mine.Mine"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, **remote}), "utf-8")
    with pytest.raises(DatasetError, match=r"cannot load the tokenizer \(.*certify=none"):
        certify(chat_source(tmp_path, small_rows(3)), tokenizer={"path": str(folder)})


def test_an_old_transformers_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert plan_of(tmp_path, small_rows(3), certify="none").certificate is None
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "4.57.0")
    assert plan_of(tmp_path, small_rows(3)).certificate is None
