"""Building into a folder that is not empty: the whole is kept, the rest made again, nothing stale is published."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.block_info import decode_state, encode_state
from pipeline.build_plan import plan_build
from pipeline.config import BuildConfig, load_config
from pipeline.launch import BuildResult, build
from pipeline.verify import verify
from schemas.errors import ConfigError

pytestmark = pytest.mark.slow

TOKENIZER = {"path": "package://mistral_common/data/tokenizer.model.v1", "bos_token": "<s>", "eos_token": "</s>"}
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"


def write_texts(path: Path, first: int, count: int = 40) -> None:
    lines = (f'{{"text": "row {number}", "q": "ask {number}", "a": "say"}}\n' for number in range(first, first + count))
    path.write_text("".join(lines))


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    for number, name in enumerate("pqr"):
        write_texts(tmp_path / f"{name}.jsonl", 100 * number)
    (tmp_path / "template.jinja").write_text(TEMPLATE)
    texts = {"path": [str(tmp_path / "p.jsonl"), str(tmp_path / "q.jsonl")], "transform": {"type": "text"}}
    turns = {"path": [str(tmp_path / "r.jsonl")], "transform": {"type": "columns", "input": "q", "output": "a"}}
    return {
        "output": str(tmp_path / "out"),
        "seq_len": 64,
        "sources": [texts, turns],
        "tokenizer": TOKENIZER,
        "chat_template": str(tmp_path / "template.jinja"),
        "block_bytes": 1024,
    }


def run(settings: dict[str, Any]) -> BuildResult:
    return build(BuildConfig.model_validate(settings), workers=1)


def move_q(settings: dict[str, Any]) -> dict[str, Any]:
    """The same files in the same order, but q.jsonl is read by the other entry of `sources`."""
    texts, turns = settings["sources"]
    first, second = texts["path"]
    moved = [{**texts, "path": [first]}, {**turns, "path": [second, *turns["path"]]}]
    return {**settings, "sources": moved}


def test_a_file_that_moves_to_another_source_is_another_data_set(settings: dict[str, Any]) -> None:
    manifest = run(settings).manifest
    with pytest.raises(ConfigError, match="other sources"):
        run(move_q(settings))
    Path(settings["output"], "manifest.json").unlink()
    again = run(move_q(settings)).manifest
    clean = run({**move_q(settings), "output": settings["output"] + "2"}).manifest
    assert again == clean
    assert again.totals.tokens != manifest.totals.tokens


def test_a_damaged_data_set_is_made_whole(settings: dict[str, Any]) -> None:
    manifest = run(settings).manifest
    assert run(settings).built is False
    broken = Path(settings["output"], manifest.shards[1].name)
    data = broken.read_bytes()
    broken.write_bytes(data[:-1])
    kept = Path(settings["output"], manifest.shards[0].name).stat().st_mtime_ns
    again = run(settings)
    assert again.built
    assert again.manifest == manifest
    assert broken.read_bytes() == data
    assert Path(settings["output"], manifest.shards[0].name).stat().st_mtime_ns == kept
    assert list(verify(settings["output"], deep=True)) == []


def test_a_damaged_state_is_no_state(settings: dict[str, Any]) -> None:
    manifest = run(settings).manifest
    Path(settings["output"], "manifest.json").unlink()
    states = sorted(Path(settings["output"]).glob("state/*/*.json"))
    states[0].write_bytes(b"")
    states[1].write_bytes(b"{}")
    states[2].write_bytes(states[2].read_bytes().replace(b'"documents":', b'"documents":1', 1))
    assert run(settings).manifest == manifest
    state = states[0].read_bytes()
    assert encode_state(decode_state(state)) == state
    for at, byte in enumerate(state):
        with pytest.raises(ValueError, match="damaged"):
            decode_state(state[:at] + bytes([byte ^ 1]) + state[at + 1 :])


def test_the_published_template_is_the_one_of_this_build(settings: dict[str, Any]) -> None:
    run(settings)
    Path(settings["output"], "manifest.json").unlink()
    Path(settings["chat_template"]).write_text(TEMPLATE.replace(": ", "; "))
    run(settings)
    served = Path(settings["output"], "tokenizer", "chat_template.jinja")
    assert "; " in served.read_text()
    served.write_text(TEMPLATE)
    assert any("chat_template" in problem for problem in verify(settings["output"], deep=False))


def test_other_processes_of_the_caller_live_on(settings: dict[str, Any]) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        run(settings)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize(
    ("transform", "key"),
    [
        ({"type": "alpaca", "instruction": "q", "output": "a", "input": "inptu"}, "input"),
        ({"type": "openai", "tools_column": "tolls"}, "tools_column"),
        ({"type": "sharegpt", "system_column": "sytem"}, "system_column"),
    ],
)
def test_a_misspelt_optional_column_is_an_error(
    settings: dict[str, Any], transform: dict[str, Any], key: str, tmp_path: Path
) -> None:
    turns = '[{"role": "user", "content": "a", "from": "human", "value": "a"}, '
    turns += '{"role": "assistant", "content": "b", "from": "gpt", "value": "b"}]'
    row = f'{{"q": "a", "a": "b", "messages": {turns}, "conversations": {turns}}}\n'
    (tmp_path / "r.jsonl").write_text(row * 3)
    settings["sources"] = [{"path": str(tmp_path / "r.jsonl"), "transform": transform}]
    with pytest.raises(ConfigError, match=f"transform.{key}"):
        run(settings)
    del transform[key]
    assert run({**settings, "max_reject_fraction": 1}).manifest.totals.documents == 3


def test_a_deeply_nested_row_is_a_reject(settings: dict[str, Any], tmp_path: Path) -> None:
    deep = "[" * 900 + "]" * 900
    good = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
    bad = good.replace('"content": "a"', f'"content": "a", "deep": {deep}')
    (tmp_path / "r.jsonl").write_text(good * 9 + bad)
    settings["sources"] = [{"path": str(tmp_path / "r.jsonl"), "transform": {"type": "openai"}}]
    manifest = run({**settings, "max_reject_fraction": 0.5}).manifest
    assert manifest.totals.documents == 9
    assert sum(manifest.rejects.counts.values()) == 1


def test_bad_lines_far_down_do_not_count_for_the_first_rows(settings: dict[str, Any], tmp_path: Path) -> None:
    good = '{"text": "a"}\n'
    (tmp_path / "r.jsonl").write_text((good * 19 + "{\n") * 200)
    settings |= {"sources": [{"path": str(tmp_path / "r.jsonl"), "transform": {"type": "text"}}], "block_bytes": 2**20}
    assert run({**settings, "max_reject_fraction": 0.1}).manifest.totals.rejects == 200


def test_a_date_in_yaml_is_a_date(settings: dict[str, Any], tmp_path: Path) -> None:
    text = yaml.safe_dump(settings) + "clock: 2025-01-31\n"
    (tmp_path / "config.yaml").write_text(text)
    assert load_config(tmp_path / "config.yaml").clock == "2025-01-31"
    with pytest.raises(ConfigError):
        load_config(tmp_path / "config.yaml", ["clock=2025-02-31"])


def test_an_output_that_cannot_be_written_is_found_before_beam(settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        run({**settings, "output": str(tmp_path / "file")})


def test_no_secret_is_in_a_message(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_build(BuildConfig.model_validate({**settings, "chat_template": "http://me:hunter2@127.0.0.1:9/t.jinja"}))
    assert "hunter2" not in str(caught.value)
