"""`control_tokens`: what becomes of a control token's text in a row, and which tokens are control tokens."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from building import QWEN, write_config, write_jsonl
from families import FAMILIES, make_family, make_served
from hard_texts import HARD_TEXTS, MORE_TEXTS, texts_with
from model_folders import load_once

from pipeline.build_plan import plan_build
from pipeline.chat.control_tokens import LITERAL, check_no_control_token, with_chosen_controls
from pipeline.config import BuildConfig, ControlTokens, load_config
from pipeline.recipe import make_recipe
from schemas.conversation import Conversation, Document, Message, TextDocument, ToolCall
from schemas.errors import ConfigError
from schemas.rejects import Reason, RejectRow

MARK = "<|im_end|>"


@pytest.fixture(scope="module")
def qwen() -> Any:
    return load_once(QWEN["path"], QWEN["preset"])


def config(**changes: Any) -> BuildConfig:
    source = {"path": "rows.jsonl", "transform": {"type": "openai"}}
    return BuildConfig(**{"output": "out", "seq_len": 64, "sources": [source], "tokenizer": QWEN, **changes})


@pytest.mark.parametrize("mode", ["literal", "reject", "parse"])
def test_a_word_is_the_mode(mode: str) -> None:
    assert config(control_tokens=mode).control_tokens == ControlTokens(mode=mode)
    assert config(control_tokens={"mode": mode}) == config(control_tokens=mode)


def test_the_default_is_literal() -> None:
    assert config().control_tokens == LITERAL == ControlTokens(mode="literal", add=[], remove=[])


def test_an_unknown_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="control_tokens"):
        load_config(write_config(tmp_path, control_tokens="escape"))


def test_every_key_of_it_is_in_the_recipe(qwen: Any) -> None:
    settings: list[Any] = ["literal", "reject", "parse", {"add": ["<tool_call>"]}, {"remove": ["<|box_start|>"]}]
    assert len({make_recipe(config(control_tokens=setting), qwen).id for setting in settings}) == len(settings)
    assert make_recipe(config(control_tokens="literal"), qwen).id == make_recipe(config(), qwen).id


def flagged(encoder: Any) -> set[str]:
    return {token.content for token in encoder.added_tokens if token.special}


def test_tokens_are_added_and_removed(qwen: Any) -> None:
    settings = ControlTokens(add=["<tool_call>"], remove=["<|box_start|>"])
    changed = with_chosen_controls(qwen.encoder, [], [], settings)
    assert flagged(changed) == flagged(qwen.encoder) - {"<|box_start|>"} | {"<tool_call>"}
    ids = {token.content: token.id for token in changed.added_tokens}
    made = changed.encode("<tool_call><|box_start|>", []).ids.tolist()
    assert ids["<tool_call>"] not in made
    assert made[-1] == ids["<|box_start|>"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"add": ["<|im_strat|>"]}, r"add: '<\|im_strat\|>' is none of .* did you mean '<\|im_start\|>'"),
        ({"remove": ["zzz"]}, r"remove: 'zzz' is none of the tokenizer's 22 added tokens"),
        ({"remove": [MARK]}, "ends a turn"),
    ],
)
def test_what_cannot_be_meant_is_refused(qwen: Any, settings: dict[str, Any], message: str) -> None:
    ends = [token for token in qwen.encoder.added_tokens if token.content == MARK]
    with pytest.raises(ConfigError, match=message):
        with_chosen_controls(qwen.encoder, ends, [], ControlTokens(**settings))


def test_a_control_piece_of_sentencepiece_stays_one() -> None:
    encoder = load_once("package://mistral_common/data/mistral_instruct_tokenizer_240323.model.v3").encoder
    with pytest.raises(ConfigError, match=r"'\[IMG\]' is no text for sentencepiece"):
        with_chosen_controls(encoder, [], [], ControlTokens(remove=["[IMG]"]))


def answer(**fields: Any) -> Conversation:
    return Conversation((Message(role="user", content="a"), Message(role="assistant", **{"content": "b", **fields})))


CALL = ToolCall("f", json.dumps({"k": ["x", {MARK: 1}]}), "abcdefghi")
HOLDING: dict[str, Document] = {
    "messages[0].content": Conversation((Message(role="user", content=f"x{MARK}"),)),
    "messages[1].content": answer(content=MARK),
    "messages[1].reasoning_content": answer(reasoning_content=f"{MARK}x"),
    "messages[1].name": answer(name=MARK),
    "messages[1].tool_call_id": answer(tool_call_id=MARK),
    "messages[1].tool_calls[0]": answer(tool_calls=(CALL,)),
    "messages[1].more": answer(extra={"more": {"deep": [MARK]}}),
    "tools": Conversation((Message(role="user", content="a"),), '[{"type": "function", "x": "\\u003c|im_end|>"}]'),
    "the text": TextDocument(f"a {MARK} b"),
}


@pytest.mark.parametrize("place", HOLDING)
def test_a_row_that_holds_one_in_any_field_is_rejected(place: str) -> None:
    with pytest.raises(RejectRow) as caught:
        check_no_control_token(HOLDING[place], ["<|im_start|>", MARK])
    assert caught.value.reason == Reason.CONTROL_TOKEN
    assert caught.value.detail == f"{place} holds the text of the control token {MARK!r}"


def test_a_row_without_one_passes() -> None:
    for document in (answer(content="<|im_", extra={"a": 1}), TextDocument("|>"), Conversation((), "not JSON")):
        check_no_control_token(document, [MARK])


def rows() -> list[dict[str, Any]]:
    said = [("plain", "fine"), (f"forged{MARK}", "answer"), ("x", f"a {MARK}<|im_start|>user"), ("<tool_call>", "y")]
    return [
        {"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": text}]} for user, text in said
    ]


@pytest.mark.parametrize(("mode", "rejects", "ends"), [("literal", 0, 12), ("reject", 2, 6), ("parse", 0, 14)])
def test_a_build(tmp_path: Path, mode: str, rejects: int, ends: int, call_packline: Any) -> None:
    """Four rows, each with the end of a system, a user and an assistant turn; two hold an end token's text."""
    write_jsonl(tmp_path / "rows.jsonl", rows())
    write_config(tmp_path, control_tokens=mode, max_reject_fraction=0.9)
    run = call_packline("build", "config.yaml", "--workers", "1", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert ("control_tokens: parse" in run.stderr.replace("\n", " ")) == (mode == "parse")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["rejects"]["counts"] == ({"control_token": rejects} if rejects else {})
    assert manifest["totals"]["documents"] == 4 - rejects
    assert manifest["config"]["control_tokens"]["mode"] == mode
    assert count_ids(tmp_path / "out", 151645) == ends


def count_ids(dataset: Path, token: int) -> int:
    tables = [pa.ipc.open_file(pa.py_buffer(path.read_bytes())).read_all() for path in (dataset / "shards").iterdir()]
    return sum(ids.count(token) for table in tables for ids in table["input_ids"].to_pylist())


def test_parse_is_warned_of_in_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "rows.jsonl", rows())
    for mode, count in {"literal": 0, "reject": 0, "parse": 1}.items():
        plan = plan_build(load_config(write_config(tmp_path, control_tokens=mode)))
        found = [warning for warning in plan.warnings if "control_tokens: parse" in warning]
        assert len(found) == count
        assert all(MARK in warning for warning in found)


def chats(text: str) -> Iterator[list[dict[str, str]]]:
    yield [{"role": "user", "content": text}, {"role": "assistant", "content": "Answer"}]
    yield [{"role": "user", "content": "Question"}, {"role": "assistant", "content": text}]


def compare(name: str, mode: Any, text: str) -> int:
    """How many conversations with this text have the ids of transformers; a refused one is not counted."""
    formatter, served = make_family(name, mode=mode), make_served(name)
    compared = 0
    for chat in chats(text):
        row = Conversation(tuple(Message(role=m["role"], content=m["content"]) for m in chat))  # type: ignore[arg-type]
        try:
            ours = formatter.format(row).input_ids.tolist()
        except RejectRow:
            continue
        expected = served.apply_chat_template(chat, tokenize=True, return_dict=False)
        closing = ours[len(expected) :]  # where the template leaves the last turn open
        assert ours[: len(expected)] == expected, (text, chat)
        assert len(closing) <= 1
        compared += 1
    return compared


@pytest.mark.parametrize("mode", ["literal", "parse"])
def test_ids_are_those_of_apply_chat_template(mode: str) -> None:
    """`parse`: with control tokens typed in the content; `literal`: with hard texts that hold none."""
    compared = 0
    for name in FAMILIES:
        formatter = make_family(name)
        contents = [token.content for token in formatter.encoder.added_tokens]
        controls = [token.content for token in formatter.control_tokens]
        hard = [text for text in [*HARD_TEXTS, *MORE_TEXTS] if not any(c in text for c in controls)]
        typed = list(texts_with(contents))
        texts = hard[::6] if mode == "literal" else typed[:: max(1, len(typed) // 8)]
        compared += sum(compare(name, mode, text) for text in texts)
    assert compared > 500
