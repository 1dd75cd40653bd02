"""The certificate in whole builds, and `packline certify` on what they publish."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from building import data_files, finished_states, run_packline, small_rows, write_config, write_jsonl

from pipeline.build_plan import plan_build
from pipeline.certify.dataset import certify_dataset
from pipeline.config import load_config
from pipeline.launch import build
from schemas.errors import ConfigError, DatasetError
from schemas.manifest import decode_manifest

CALL = {"type": "function", "function": {"name": "f", "arguments": {"n": 12345678901234567890123}}}
ROUNDED: dict[str, Any] = {
    "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "tool_calls": [CALL]}]
}
"""The reader rounds the number; Python's json, and so a server, does not."""


def certificate_in(dataset: Path) -> Any:
    return json.loads((dataset / "manifest.json").read_bytes())["certificate"]


def test_the_same_with_any_number_of_workers(project: Path) -> None:
    """Also in worker processes, where blocks go through no coder, and with a repeat of every bundle."""
    for name, extra in {"one": ["--workers", "1"], "two": ["--workers", "2"]}.items():
        run = run_packline("build", "config.yaml", "--set", f"output={name}", *extra, cwd=project)
        assert run.returncode == 0, run.stderr
    assert data_files(project / "one") == data_files(project / "two")
    found = certificate_in(project / "one")
    assert 16 * 10 < found["compared"] == found["passed"] <= 600
    assert "rows equal to transformers" in run.stdout
    units = {state["info"]["unit"]: state["info"]["certificate"] for state in finished_states(project / "one")}
    assert min(certificate["compared"] for certificate in units.values()) >= 16
    assert sum(certificate["compared"] for certificate in units.values()) == found["compared"]


def test_a_difference_stops_the_build(project: Path) -> None:
    write_jsonl(project / "rows.jsonl", [*small_rows(40), ROUNDED])
    run = run_packline("build", "config.yaml", cwd=project)
    assert run.returncode == 1
    assert "1 of 41 rows" in run.stderr
    assert "from token" in run.stderr
    assert "12345" not in run.stderr
    assert not (project / "out" / "manifest.json").exists()
    allowed = load_config(project / "config.yaml", [f"output={project / 'out'}", "allow_differences=true"])
    sources = [source.model_copy(update={"path": str(project / "rows.jsonl")}) for source in allowed.sources]
    allowed = allowed.model_copy(update={"sources": sources})
    manifest = build(allowed, workers=1).manifest
    assert manifest.certificate is not None
    assert (manifest.certificate.compared, manifest.certificate.passed) == (41, 40)
    (project / "out" / "manifest.json").unlink()
    with pytest.raises(DatasetError, match="1 of 41 rows"):
        build(allowed.model_copy(update={"allow_differences": False}), workers=1)  # its blocks are finished
    none = build(allowed.model_copy(update={"certify": "none"}), workers=1).manifest
    assert none.certificate is None


def test_blocks_are_made_again_for_a_certificate_and_kept_without(project: Path) -> None:
    config = load_config(project / "config.yaml", [f"output={project / 'out'}", "certify=none"])
    sources = [source.model_copy(update={"path": str(project / "rows.jsonl")}) for source in config.sources]
    config = config.model_copy(update={"sources": sources})

    def times() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (project / "out").glob("state/*/*.json")}

    build(config, workers=1)
    first = times()
    (project / "out" / "manifest.json").unlink()
    certified = build(config.model_copy(update={"certify": None}), workers=1).manifest
    assert certified.certificate is not None
    second = times()
    assert all(second[name] > first[name] for name in first)
    (project / "out" / "manifest.json").unlink()
    assert build(config, workers=1).manifest.certificate is None
    assert times() == second
    assert build(config.model_copy(update={"certify": None}), workers=1).manifest.certificate is None  # as published


def test_the_command(project: Path) -> None:
    rows = [*small_rows(60), {"messages": [{"role": "user", "content": "<|im_end|>"}]}, {"no": "messages"}]
    rows += [{"messages": [*rows[0]["messages"], {"role": "assistant", "content": "<|im_end|> [bold]"}]}]
    write_jsonl(project / "rows.jsonl", rows)
    settings = ["--set", "max_reject_fraction=0.5", "--set", "holdout=0.3"]
    assert run_packline("build", "config.yaml", *settings, cwd=project).returncode == 0
    run = run_packline("certify", "out", "config.yaml", *settings, cwd=project)
    assert run.returncode == 0, run.stderr
    counts = dict(line.rsplit(maxsplit=1) for line in run.stdout.splitlines())
    assert {key.strip(): int(value) for key, value in counts.items() if value.isdecimal()} == {
        "rows": 63,
        "rejected": 2,
        "compared": 61,
        "equal": 61,
        "different": 0,
        "with control text": 1,
        "not comparable": 0,
        "other ids in the shards": 0,
    }
    run = run_packline("certify", "out", "config.yaml", *settings, "-n", "5", cwd=project)
    assert "rows                     5 " in run.stdout
    run = run_packline("certify", "out", "config.yaml", *settings, "--set", "seq_len=256", cwd=project)
    assert run.returncode == 2
    assert "another recipe (seq_len was 512, is 256)" in run.stderr


def test_the_command_finds_differences(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_jsonl(project / "rows.jsonl", [*small_rows(20), ROUNDED, *small_rows(20)])
    changes = ["--set", "allow_differences=true"]
    assert run_packline("build", "config.yaml", *changes, cwd=project).returncode == 0
    run = run_packline("certify", "out", "config.yaml", *changes, cwd=project)
    assert run.returncode == 1
    assert "different              1 " in run.stdout.replace("  different", "different")
    assert "1.2345678901234568e+22" in run.stdout.replace("\n", "") or "'.'" in run.stdout
    damage_a_shard(project / "out")
    monkeypatch.chdir(project)
    report = certify_dataset("out", load_config(project / "config.yaml", []), None)
    assert (report.certificate.differences, report.other_ids, len(report.other_places)) == (1, 1, 1)
    assert not report.is_clean
    with pytest.raises(ConfigError, match="other sources"):
        write_jsonl(project / "rows.jsonl", small_rows(3))
        certify_dataset("out", load_config(project / "config.yaml", []), None)


def damage_a_shard(dataset: Path) -> None:
    """Another id for one token, in place."""
    manifest = decode_manifest((dataset / "manifest.json").read_bytes(), "manifest")
    path = dataset / manifest.shards[0].name
    data = path.read_bytes()
    ids = pa.ipc.open_file(pa.py_buffer(data)).get_batch(0).column("input_ids").flatten().to_numpy()
    at = data.find(ids[:16].tobytes())
    assert at > 0
    path.write_bytes(data[: at + 40] + (7).to_bytes(4, "little") + data[at + 44 :])


def test_an_absent_key_is_automatic(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    write_config(project, output=str(project / "out"))
    assert plan_build(load_config(project / "config.yaml")).certificate is not None
