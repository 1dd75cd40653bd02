"""What a user is told of a config, a template or a row that is not what was meant."""

from pathlib import Path
from typing import Any

import pytest
from building import LLAMA, QWEN, small_rows, write_config, write_jsonl
from families import write_family_folder

from pipeline import cli
from pipeline.build_plan import plan_build
from pipeline.config import load_config
from schemas.errors import ConfigError


def project(folder: Path, rows: list[Any], **changes: Any) -> Path:
    write_jsonl(folder / "rows.jsonl", rows)
    sources = [{"path": str(folder / "rows.jsonl"), "transform": {"type": "openai"}}]
    return write_config(folder, output=str(folder / "out"), sources=sources, **changes)


@pytest.mark.parametrize(
    ("tokenizer", "template", "foreign"),
    [
        (LLAMA, "chatml", "<|im_start|> <|im_end|>"),
        (LLAMA, {"user": ["<|user|>", "\n"], "assistant": ["<|eot_id|>", ""]}, "<|user|>"),
        (QWEN, "chatml", None),
        (QWEN, "qwen2.5", None),
        (LLAMA, "llama3.1", None),
        (LLAMA, None, None),
    ],
)
def test_marks_that_the_tokenizer_lacks_are_warned_of(
    tmp_path: Path, tokenizer: dict[str, str], template: Any, foreign: str | None
) -> None:
    config = load_config(project(tmp_path, small_rows(1), tokenizer=tokenizer, chat_template=template))
    said = [warning for warning in plan_build(config).warnings if "which the tokenizer does not have" in warning]
    assert len(said) == (foreign is not None)
    assert not foreign or f"writes {foreign}, which" in said[0]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("clock", "tomorrow", "'clock': expected a day as YYYY-MM-DD, such as 2024-07-26 (got 'tomorrow')"),
        ("clock", 20250102, "'clock': expected a day as YYYY-MM-DD, such as 2024-07-26 (got 20250102)"),
        ("clock", "20250102", "expected a day as YYYY-MM-DD"),
        ("seq_len", None, "'seq_len': Input should be a valid integer (got null)"),
        ("tokenizer", "models/x", "'tokenizer': expected a mapping, as in {key: value} (got 'models/x')"),
        ("loss_policy", [{"roles": "user"}], "expected a list, as in [value, value] (got 'user')"),
    ],
)
def test_errors_of_a_config_speak_of_yaml(tmp_path: Path, key: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(write_config(tmp_path, **{key: value}))
    assert said in str(error.value)


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    config = load_config(project(tmp_path, small_rows(1), tokenizer={"path": str(tmp_path)}))
    with pytest.raises(ConfigError, match=r"tokenizer.path: .* is a folder without tokenizer.json"):
        plan_build(config)


@pytest.mark.parametrize(
    ("rows", "said", "is_misread"),
    [
        ([{"messages": [{"content": "Hi"}]}], "messages[0].role is missing or null", True),
        (small_rows(3), "tokens, seq_len is 8", False),
    ],
)
def test_the_hint_at_the_transform_is_for_rows_that_were_misread(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: list[Any], said: str, is_misread: bool
) -> None:
    tokenizer = {"path": str(write_family_folder("qwen3", tmp_path / "model"))}
    assert cli.main(["build", str(project(tmp_path, rows, tokenizer=tokenizer, seq_len=8))]) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert ("path, format and transform" in shown) == is_misread


def test_preview_shows_rejects_in_the_order_of_the_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"messages": [{"role": "alien", "content": "x"}]}, "no object", {"messages": None}]
    assert cli.main(["preview", str(project(tmp_path, rows))]) == 0
    shown = capsys.readouterr().out
    places = [shown.index(reason) for reason in ("unknown_role", "not_an_object", "missing_column")]
    assert places == sorted(places)


def test_a_build_that_split_is_not_told_to_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """DeepSeek V3's prompt forces a thought, which its rendering of an answer never has."""
    tokenizer = {"path": str(write_family_folder("deepseekv3", tmp_path / "model"))}
    rows = small_rows(4)
    config = project(tmp_path, rows, tokenizer=tokenizer, reasoning_history="split", certify="none")
    assert cli.main(["build", str(config)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "whose prompt is not the one that is served" in shown
    assert "reasoning_history=split" not in shown
    assert "why a split cannot mend it" in shown


def test_names_are_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "e["
    folder.mkdir()
    path = write_jsonl(folder / "y].jsonl", small_rows(20))
    write_config(tmp_path, sources=[{"path": str(path), "transform": {"type": "openai"}}], output="[/red]out")
    assert cli.main(["plan", str(tmp_path / "config.yaml")]) == 0
    told = capsys.readouterr().out
    assert "e[/y].jsonl" in told
    assert "[/red]out" in told
