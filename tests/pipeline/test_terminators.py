"""The terminator audit: a build whose turns are trained without their end stops, before it starts or before it
publishes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from building import write_jsonl
from families import make_family, template_folder, token_ids, write_family_folder

from pipeline import cli, launch
from pipeline.chat import formatter as chat_formatter
from pipeline.chat.formatter import ChatFormatter
from pipeline.chat.layout import DocumentLayout
from pipeline.chat.probe import TurnEnds, find_turn_ends
from pipeline.exit_codes import OVER_BUDGET
from pipeline.verify import verify
from schemas.channels import NO_LOSS
from schemas.conversation import Conversation, Message

pytestmark = pytest.mark.skipif(template_folder() is None, reason="trl is not installed")

Inject = Callable[[pytest.MonkeyPatch], None]
ROWS = 40
HALF, NONE = ("80 40 0.5000", "40 0 0.0000"), ("80 0 0.0000", "40 0 0.0000")
BARE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
NO_ENDS = [{"roles": ["assistant"], "parts": ["body"]}, {"roles": ["text"]}]


def chat(turns: int, number: int) -> dict[str, Any]:
    """Equally long for all numbers of two digits."""
    pair = [{"role": "user", "content": f"ask {number}"}, {"role": "assistant", "content": f"secret answer {number}"}]
    return {"messages": pair * turns}


def write_project(folder: Path, family: str = "qwen2_5", **changes: Any) -> list[str]:
    """Two turns a row in chats.jsonl, one in more.jsonl, none in texts.jsonl; the arguments of a build of them."""
    write_family_folder(family, folder / "model")
    write_jsonl(folder / "chats.jsonl", [chat(2, number) for number in range(10, 10 + ROWS)])
    write_jsonl(folder / "more.jsonl", [chat(1, number) for number in range(10, 10 + ROWS)])
    write_jsonl(folder / "texts.jsonl", [{"text": f"words {number}"} for number in range(ROWS)])
    transforms = {"chats": "openai", "more": "openai", "texts": "text"}
    config = {
        "output": str(folder / "out"),
        "seq_len": 256,
        "sources": [
            {"path": str(folder / f"{name}.jsonl"), "transform": {"type": kind}} for name, kind in transforms.items()
        ],
        "tokenizer": {"path": str(folder / "model")},
        **changes,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return ["build", str(folder / "config.yaml"), "--workers", "1"]


def turns_of(folder: Path) -> dict[str, Any]:
    turns: dict[str, Any] = json.loads((folder / "out" / "manifest.json").read_bytes())["turns"]
    return turns


# What others got wrong


def no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """The config is the fault."""


def mask_the_last_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchtune #2792."""
    right = ChatFormatter.lay_out_documents

    def wrong(self: ChatFormatter, conversation: Conversation, *, replay: bool = True) -> list[DocumentLayout]:
        layouts = right(self, conversation, replay=replay)
        last = layouts[-1].regions[-1]
        layouts[-1].characters[last.end_token : last.end] |= NO_LOSS
        return layouts

    monkeypatch.setattr(ChatFormatter, "lay_out_documents", wrong)


def end_at_eos_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """axolotl #3754: Gemma ends its turns with <end_of_turn>, the eos token is <eos>."""

    def wrong(template: Any, added: Any, stop_ids: Any, eos: Any) -> TurnEnds:
        return TurnEnds((eos,), (eos,), after_answer=None, after_call=None)

    monkeypatch.setattr(chat_formatter, "find_turn_ends", wrong)


def leave_the_last_turn_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(template: Any, added: Any, stop_ids: Any, eos: Any) -> TurnEnds:
        return replace(find_turn_ends(template, added, stop_ids, eos), after_answer=None, after_call=None)

    monkeypatch.setattr(chat_formatter, "find_turn_ends", wrong)


FAULTS: dict[str, tuple[Inject, str, dict[str, Any], tuple[str, str]]] = {
    "the last token is masked": (mask_the_last_token, "qwen2_5", {}, HALF),
    "eos is taken for the end": (end_at_eos_alone, "gemma3", {}, NONE),
    "the policy has no end": (no_fault, "llama3_1", {"loss_policy": NO_ENDS}, NONE),
    "a template without ends": (leave_the_last_turn_open, "qwen2_5", {"chat_template": BARE}, NONE),
}


@pytest.mark.parametrize("stage", ["first rows", "whole"])
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_stops_the_build(
    name: str, stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inject, family, changes, expected = FAULTS[name]
    if "chat_template" in changes:
        (tmp_path / "bare.jinja").write_text(changes["chat_template"])
        changes = {"chat_template": str(tmp_path / "bare.jinja")}
    arguments = write_project(tmp_path, family, **changes)
    inject(monkeypatch)
    if stage == "whole":
        monkeypatch.setattr(launch, "check_first_rows", lambda plan: [])
    assert cli.main(arguments) == OVER_BUDGET
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert (tmp_path / "out").exists() == (stage == "whole")
    errors = capsys.readouterr().err
    table = [" ".join(line.split()) for line in errors.splitlines()]
    for path, numbers in zip(("chats.jsonl", "more.jsonl"), expected, strict=True):
        assert f"{tmp_path}/{path} {numbers}" in table
    assert not [line for line in table if line.startswith(f"{tmp_path}/texts.jsonl")]
    assert (
        f"{tmp_path}/chats.jsonl at 0, messages[{3 if inject is mask_the_last_token else 1}]: what is trained ends in "
        in errors
    )
    assert "min_terminated is 99.00%" in errors
    assert "--set min_terminated=" in errors
    assert ("Nothing is published" in errors) == (stage == "whole")
    assert "secret" not in errors


def test_a_fault_after_the_first_rows_stops_the_build(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A policy that trains the end of the last turn alone, which the first rows have no other than."""
    policy = [{"roles": ["assistant"], "parts": ["body", "end"], "turns": "last"}, *NO_ENDS]
    arguments = write_project(tmp_path, loss_policy=policy, block_bytes="64KiB")
    rows = [chat(1, 10)] * 1000 + [chat(2, 10)] * 30
    for row in rows[1000:]:
        row["messages"][1]["content"] = "\n\\'\""
    write_jsonl(tmp_path / "chats.jsonl", rows)
    assert cli.main(arguments) == 3
    errors = capsys.readouterr().err
    table = [" ".join(line.split()) for line in errors.splitlines()]
    assert f"{tmp_path}/chats.jsonl 1,060 1,030 0.9717" in table
    place = sum(len(json.dumps(row)) + 1 for row in rows[:1000])
    assert f"chats.jsonl at {place}, messages[1]: what is trained ends in " in errors
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert cli.main([*arguments, "--set", "min_terminated=0.97"]) == 0
    assert "without an end" in capsys.readouterr().out


def test_the_message_of_a_masked_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The ids lead to the token that is not trained; the text is that of the last trained token alone."""
    arguments = write_project(tmp_path)
    mask_the_last_token(monkeypatch)
    assert cli.main(arguments) == 3
    ids = token_ids("qwen2_5")
    lines = capsys.readouterr().err.splitlines()
    assert f"{ids['<|im_end|>']} <|im_end|>" in lines[0]
    shown = [line for line in lines if "what is trained ends in" in line]
    assert len(shown) == 3
    assert shown[0].split("the last is ")[1].startswith(f"'0'; not trained after it: {ids['<|im_end|>']} ")


def test_the_budget_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask_the_last_token(monkeypatch)
    arguments = write_project(tmp_path)
    assert cli.main([*arguments, "--set", "min_terminated=0.5"]) == 3  # more.jsonl has none at all
    one_source = [*arguments, "--set", f"sources=[{{path: {tmp_path}/chats.jsonl, transform: {{type: openai}}}}]"]
    assert cli.main([*one_source, "--set", "min_terminated=0.5"]) == 0
    turns = turns_of(tmp_path)
    assert turns["total"] == {"trained": 80, "terminated": 40, "reasoning_dropped": 0, "not_served": 0, "cut": 0}
    assert turns["sources"] == {"0": turns["total"]}


@pytest.mark.parametrize("family", ["qwen2_5", "glm4moe", "gptoss", "gemma3"])
def test_a_sound_build_passes(family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = write_project(tmp_path, family, holdout=0.3)
    assert cli.main([*arguments, "--set", "min_terminated=1"]) == 0
    turns = turns_of(tmp_path)
    counts = [turns["total"], turns["sources"]["0"], turns["sources"]["1"]]
    assert [(count["trained"], count["terminated"], count["cut"]) for count in counts] == [
        (120, 120, 0),
        (80, 80, 0),
        (40, 40, 0),
    ]
    assert set(turns["sources"]) == {"0", "1"}
    assert list(verify(str(tmp_path / "out"), deep=True)) == []
    shown = capsys.readouterr().out
    assert "trained turns" in shown
    assert "without an end" not in shown
    assert "warning" not in shown


def test_cut_turns_do_not_stop_a_build_but_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """chats.jsonl is cut within its second turn, more.jsonl not at all."""
    messages = (Message("user", "ask 10"), Message("assistant", "secret answer 10"))
    last = make_family("gemma3").format(Conversation(messages * 2)).turns[1]
    arguments = write_project(tmp_path, "gemma3", seq_len=last.end - 1, too_long="truncate")
    assert cli.main(arguments) == 0
    turns = turns_of(tmp_path)
    total = turns["total"]
    assert total["cut"] == ROWS
    assert (total["trained"], total["terminated"]) == (2 * ROWS, 2 * ROWS)
    shown = capsys.readouterr().out
    assert f"{ROWS} turns are cut" in shown
    assert "too_long=truncate_turns" in shown
    assert cli.main(["inspect", str(tmp_path / "out")]) == 0
    assert "cut turns" in capsys.readouterr().out

    other = [*arguments, "--set", f"output={tmp_path}/whole", "--set", "too_long=truncate_turns"]
    assert cli.main(other) == 0
    manifest = json.loads((tmp_path / "whole" / "manifest.json").read_bytes())
    assert manifest["turns"]["total"] == {**total, "cut": 0}
    assert manifest["totals"]["truncated"] == ROWS
    assert manifest["totals"]["rejects"] == 0


def test_turns_that_are_not_as_served_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Qwen 3.5 drops the thought of all turns but the last, and with it the tag that its prompt forces."""
    arguments = write_project(tmp_path, "qwen3_5_think")
    rows = [chat(2, number) for number in range(10, 10 + ROWS)]
    for message in (message for row in rows for message in row["messages"][1::2]):
        message["reasoning_content"] = "because"
    write_jsonl(tmp_path / "chats.jsonl", rows)
    assert cli.main(arguments) == 0
    total = turns_of(tmp_path)["total"]
    assert (total["trained"], total["reasoning_dropped"], total["not_served"]) == (3 * ROWS, ROWS, ROWS)
    shown = " ".join(capsys.readouterr().out.split())
    assert "warning: 40 of 120 turns: the template drops earlier reasoning" in shown
    assert "warning: 40 of 120 turns whose prompt is not the one that is served" in shown
    assert "reasoning_history=split" in shown
    assert "where earlier turns change" in shown

    split = [*arguments, "--set", f"output={tmp_path}/split", "--set", "reasoning_history=split"]
    assert cli.main(split) == 0
    manifest = json.loads((tmp_path / "split" / "manifest.json").read_bytes())
    total = manifest["turns"]["total"]
    assert (total["trained"], total["reasoning_dropped"], total["not_served"]) == (3 * ROWS, 0, 0)
    assert manifest["totals"]["documents"] == 4 * ROWS  # two pieces a chat of two turns, and the texts
