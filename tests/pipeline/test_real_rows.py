"""The real rows beside the checkout: conversations, tool calls and web text together, in two families' tokenizers."""

import json
from pathlib import Path
from typing import Any

import pytest
from building import LLAMA, QWEN, data_files, finished_states, kill_in_the_middle, run_packline

pytestmark = pytest.mark.slow


def write_config(folder: Path, data: Path, tokenizer: dict[str, Any]) -> None:
    sources = [
        {"path": str(data / "gsm8k.jsonl"), "transform": {"type": "columns", "input": "question", "output": "answer"}},
        {"path": str(data / "glaive_toolcall_en_demo.json"), "transform": {"type": "sharegpt"}},
        {"path": str(data / "c4_demo.jsonl"), "transform": {"type": "text"}},
    ]
    config = {
        "output": "out",
        "seq_len": 2048,
        "sources": sources,
        "tokenizer": tokenizer,
        "too_long": "split",
        "block_bytes": "256KiB",
    }
    (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML


def assert_same_without_the_fast_engine(folder: Path, name: str, call_packline: Any) -> None:
    """Every byte but the manifest's word on which engine ran."""
    changes = ("--set", "output=slow", "--set", "engine=reference")
    run = call_packline("build", "config.yaml", "--workers", "1", *changes, cwd=folder)
    assert run.returncode == 0, run.stderr
    fast, slow = data_files(folder / name), data_files(folder / "slow")
    manifests = [json.loads(files.pop("manifest.json")) for files in (fast, slow)]
    engines = [{key: manifest["tokenizer"].pop(key) for key in ("engine", "libraries")} for manifest in manifests]
    assert [each["engine"] for each in engines] == ["gigatoken", "tiktoken"]
    assert manifests[0] == manifests[1]
    assert fast == slow
    assert fast


def test_qwen_the_same_bytes_in_every_way(tmp_path: Path, shared_data: Path, call_packline: Any) -> None:
    write_config(tmp_path, shared_data, QWEN)
    for name, extra in {"one": ["--workers", "1"], "killed": ["--workers", "2"]}.items():
        arguments = ["build", "config.yaml", "--set", f"output={name}", *extra]
        if name == "killed":
            done = kill_in_the_middle(arguments, tmp_path, tmp_path / name, finished=4)
            assert 0 < done < len(finished_states(tmp_path / "one"))
            assert not (tmp_path / name / "manifest.json").exists()
        run = (run_packline if name == "killed" else call_packline)(*arguments, cwd=tmp_path)
        assert run.returncode == 0, run.stderr
        assert data_files(tmp_path / name) == data_files(tmp_path / "one")
    assert len({state["info"]["unit"] for state in finished_states(tmp_path / "one")}) >= 20
    assert len({state["process"] for state in finished_states(tmp_path / "killed")}) >= 2
    verified = call_packline("verify", "one", "--deep", cwd=tmp_path)
    assert verified.stdout == "ok\n"
    totals = json.loads((tmp_path / "one" / "manifest.json").read_bytes())["totals"]
    assert totals["rows"] == 7473 + 300 + 300
    assert_same_without_the_fast_engine(tmp_path, "one", call_packline)


def test_llama(tmp_path: Path, shared_data: Path, call_packline: Any) -> None:
    write_config(tmp_path, shared_data, LLAMA)
    run = call_packline("build", "config.yaml", "--workers", "1", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert call_packline("verify", "out", "--deep", cwd=tmp_path).stdout == "ok\n"
    assert_same_without_the_fast_engine(tmp_path, "out", call_packline)


def test_gsm8k_fills_its_packs(tmp_path: Path, shared_data: Path, call_packline: Any) -> None:
    """Plain best-fit decreasing fills 99.0% here."""
    write_config(tmp_path, shared_data, QWEN)
    config = json.loads((tmp_path / "config.yaml").read_text())
    config |= {"sources": config["sources"][:1], "block_bytes": "32MiB"}
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    assert call_packline("build", "config.yaml", "--workers", "1", cwd=tmp_path).returncode == 0
    assert json.loads((tmp_path / "out" / "manifest.json").read_bytes())["fill"] >= 0.995
