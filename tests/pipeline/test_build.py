"""Whole builds: the same bytes however they run, nothing published before it is whole, clear words where one fails."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from building import (
    PACKLINE,
    data_files,
    finished_states,
    kill_in_the_middle,
    run_packline,
    small_rows,
    write_config,
    write_jsonl,
)

from schemas.manifest import decode_manifest
from schemas.shard import map_shard

pytestmark = pytest.mark.slow

Call = Callable[..., "subprocess.CompletedProcess[str]"]


def documents_of(dataset: Path) -> list[tuple[int, int, int]]:
    """(source, position, piece) of every document, holdout included."""
    manifest = decode_manifest((dataset / "manifest.json").read_bytes(), "manifest")
    places = []
    for file in [*manifest.shards, *(manifest.holdout.shards if manifest.holdout else [])]:
        for packs in map_shard(dataset / file.name).batches:
            columns = (packs.doc_source, packs.doc_position, packs.doc_piece)
            places += list(zip(*(column.tolist() for column in columns), strict=True))
    return places


def test_same_bytes_with_any_workers_repeats_and_kills(project: Path, call_packline: Call) -> None:
    clean = run_packline("build", "config.yaml", "--workers", "1", cwd=project)
    assert clean.returncode == 0, clean.stderr
    expected = data_files(project / "out")
    units = {state["info"]["unit"] for state in finished_states(project / "out")}
    assert len(units) >= 10
    certificate = json.loads(expected["manifest.json"])["certificate"]
    assert 16 * len(units) <= certificate["compared"] == certificate["passed"] <= 600
    assert "rows equal to transformers" in clean.stdout

    ways = {
        "three": ["--workers", "3", "--", "--direct_runner_bundle_repeat=1"],
        "killed": ["--workers", "2"],
    }
    for name, extra in ways.items():
        arguments = ["build", "config.yaml", "--set", f"output={name}", *extra]
        if name == "killed":
            done = kill_in_the_middle(arguments, project, project / name, finished=3)
            assert 3 <= done < len(units)
            assert not (project / name / "manifest.json").exists()
            before = {path: path.stat().st_mtime_ns for path in (project / name).glob("state/*/*.json")}
        run = run_packline(*arguments, cwd=project)
        assert run.returncode == 0, run.stderr
        assert data_files(project / name) == expected
        if name == "three":
            assert len({state["process"] for state in finished_states(project / name)}) >= 2
    assert all(path.stat().st_mtime_ns == mtime for path, mtime in before.items())  # no finished block was done again

    again = call_packline("build", "config.yaml", cwd=project)
    assert again.returncode == 0
    assert "already built" in again.stdout
    assert call_packline("verify", "out", "--deep", cwd=project).returncode == 0


@pytest.mark.parametrize("moment", ["starting", "working"])
def test_a_killed_worker_is_named(project: Path, moment: str) -> None:
    write_jsonl(project / "rows.jsonl", small_rows(600) * 20)  # for a while
    process = subprocess.Popen(
        [PACKLINE, "build", "config.yaml", "--workers", "2"], cwd=project, stderr=subprocess.PIPE, text=True
    )
    _kill_one_worker(process.pid, project / "out", moment)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "killed" in errors
    assert "memory" in errors
    assert "Traceback" not in errors
    assert not (project / "out" / "manifest.json").exists()
    assert not psutil.Process().children(recursive=True)


def _kill_one_worker(launcher: int, dataset: Path, moment: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(0.02)
        for child in psutil.Process(launcher).children(recursive=True):
            if moment == "starting" or list(dataset.glob("state/*/*.begun")):
                child.kill()
                return
    pytest.fail("no worker was started")


def test_interrupt_stops_the_workers(project: Path) -> None:
    write_jsonl(project / "rows.jsonl", small_rows(600) * 20)  # for a while
    process = subprocess.Popen(
        [PACKLINE, "build", "config.yaml", "--workers", "2"], cwd=project, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list((project / "out").glob("state/*/*.begun")) and time.monotonic() < deadline:
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in errors
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert gone
    assert not alive


def test_a_custom_module_travels_to_the_workers(project: Path, call_packline: Call) -> None:
    """And modules of the user's under our names do not get in the way."""
    for name in ("train", "schemas", "pipeline", "proto"):
        (project / f"{name}.py").write_text("raise RuntimeError('the user module was imported')\n")
    (project / "my_rows.py").write_text(
        "PREFIX = 'Q: '\n\ndef convert(row, suffix):\n"
        "    asked, answered = row['messages'][-2:]\n"
        "    return [{**asked, 'content': PREFIX + asked['content'] + suffix}, answered]\n"
    )
    transform = {"type": "custom", "function": "my_rows:convert", "args": {"suffix": "?"}}
    write_config(project, sources=[{"path": "rows.jsonl", "transform": transform}])
    run = run_packline("build", "config.yaml", "--workers", "2", cwd=project)
    assert run.returncode == 0, run.stderr
    shown = call_packline("inspect", "out", "--pack", "0", cwd=project)
    assert "Q: " in shown.stdout
    (project / "my_rows.py").write_text((project / "my_rows.py").read_text().replace("Q: ", "A: "))
    changed = call_packline("build", "config.yaml", cwd=project)
    assert changed.returncode == 2  # the module's source is part of the recipe
    assert "another recipe" in changed.stderr


def test_rows_are_packed_or_rejected(tmp_path: Path, call_packline: Call) -> None:
    """Each good row in exactly one pack, each bad one a reject with its place; the holdout apart."""
    good = small_rows(300)
    lines = [json.dumps(row) for row in good]
    bad = {
        40: "{",
        90: "[1]",
        150: json.dumps({"messages": [{"role": "x", "content": "y"}]}),
        200: json.dumps({"a": 1}),
    }
    for at, line in bad.items():
        lines.insert(at, line)
    data = "\n".join(lines) + "\n"
    (tmp_path / "rows.jsonl").write_text(data)
    write_config(tmp_path, holdout=0.2, max_reject_fraction=0.05)
    run = call_packline("build", "config.yaml", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert call_packline("verify", "out", "--deep", cwd=tmp_path).stdout == "ok\n"

    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line.encode()) + 1)
    expected = sorted((0, starts[number], 0) for number in range(len(lines)) if number not in bad)
    assert sorted(documents_of(tmp_path / "out")) == expected
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_bytes())
    assert manifest["rejects"]["counts"] == {
        "invalid_json": 1,
        "missing_column": 1,
        "not_an_object": 1,
        "unknown_role": 1,
    }
    held_out = sum(shard["documents"] for shard in manifest["holdout"]["shards"])
    assert 30 < held_out < 90


def test_the_budget(tmp_path: Path, call_packline: Call) -> None:
    rows: list[Any] = small_rows(200)
    write_jsonl(tmp_path / "rows.jsonl", [*rows, *({"messages": []} for _ in range(20))])
    write_config(tmp_path)
    run = call_packline("build", "config.yaml", "--workers", "1", cwd=tmp_path)
    assert run.returncode == 3
    assert "20 of 220 rows were rejected" in run.stderr
    assert "20 empty" in run.stderr
    assert not (tmp_path / "out" / "manifest.json").exists()
    raised = call_packline("build", "config.yaml", "--workers", "1", "--set", "max_reject_fraction=0.2", cwd=tmp_path)
    assert raised.returncode == 0, raised.stderr


def test_a_misspelt_column_ends_before_beam(project: Path) -> None:
    run = run_packline("build", "config.yaml", "--set", "sources.0.transform.column=message", cwd=project)
    assert run.returncode == 2
    assert "missing_column" in run.stderr
    assert not (project / "out").exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seq_length=5", "did you mean 'seq_len'"),
        ("chat_template=nowhere", "chatml"),
        ("sources.0.path=none/*.jsonl", "none/*.jsonl"),
        ("tokenizer.path=package://no_such_package/x", "no_such_package"),
        ("output=memory://x", "memory://"),
    ],
)
def test_config_errors_are_found_before_beam(project: Path, override: str, words: str, call_packline: Call) -> None:
    run = call_packline("build", "config.yaml", "--set", override, cwd=project)
    assert run.returncode == 2
    assert words in run.stderr
    assert "Traceback" not in run.stderr


def test_a_folder_keeps_to_one_data_set(project: Path, call_packline: Call) -> None:
    assert call_packline("build", "config.yaml", "--workers", "1", cwd=project).returncode == 0
    other = call_packline("build", "config.yaml", "--set", "seed=7", cwd=project)
    assert other.returncode == 2
    assert "seed was 0, is 7" in other.stderr
    write_jsonl(project / "rows.jsonl", small_rows(601))
    changed = call_packline("build", "config.yaml", cwd=project)
    assert changed.returncode == 2
    assert "changed: rows.jsonl" in changed.stderr


def test_a_source_that_changes_stops_the_build(project: Path) -> None:
    from pipeline.build_plan import plan_build
    from pipeline.config import load_config
    from pipeline.runner import run_beam
    from schemas.store import Folder

    config = load_config(project / "config.yaml", [f"output={project}/out", f"sources.0.path={project}/rows.jsonl"])
    plan = plan_build(config)
    with (project / "rows.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(RuntimeError) as caught:
        run_beam(plan, "FnApiRunner", 1, [], debug=False)
    assert "rows.jsonl" in getattr(caught.value, "message", "")
    assert Folder(f"{project}/out").size("manifest.json") is None


def test_plan_writes_nothing(project: Path, call_packline: Call) -> None:
    before = sorted(os.listdir(project))
    run = call_packline("plan", "config.yaml", cwd=project)
    assert run.returncode == 0, run.stderr
    assert "nothing yet" in run.stdout
    assert sorted(os.listdir(project)) == before


def test_preview(project: Path, call_packline: Call) -> None:
    run = run_packline("preview", "config.yaml", "-n", "2", "--json", cwd=project)
    shown = json.loads(run.stdout)
    assert len(shown) == 2
    tokens = shown[0]["tokens"]
    assert set(tokens[0]) == {"id", "text", "role", "part", "last_turn", "trained"}
    first = json.loads((project / "rows.jsonl").read_text().splitlines()[0])
    answers = [m["content"] + "<|im_end|>" for m in first["messages"] if m["role"] == "assistant"]
    assert "".join(token["text"] for token in tokens if token["trained"]) == "".join(answers)
    assert "trained" in call_packline("preview", "config.yaml", cwd=project).stdout


def test_preview_of_policies(project: Path, call_packline: Call) -> None:
    policies = ["assistant", "last_turn", "text", "[{roles: [user], parts: [body]}]"]
    flags = [word for policy in policies for word in ("--policy", policy)]
    shown = json.loads(call_packline("preview", "config.yaml", "-n", "3", "--json", *flags, cwd=project).stdout)
    rows = [json.loads(line)["messages"] for line in (project / "rows.jsonl").read_text().splitlines()[:3]]
    made = [(each["policy"], "".join(t["text"] for t in each["tokens"] if t["trained"])) for each in shown]
    answers = [[m["content"] + "<|im_end|>" for m in row if m["role"] == "assistant"] for row in rows]
    asked = ["".join(m["content"] for m in row if m["role"] == "user") for row in rows]
    assert made == [  # under `text` no row has a token that is trained
        *(("assistant", "".join(said)) for said in answers),
        *(("last_turn", said[-1]) for said in answers),
        *(('[{"roles": ["user"], "parts": ["body"]}]', text) for text in asked),
    ]
    run = call_packline("preview", "config.yaml", "-n", "1", *flags, cwd=project)
    assert run.stdout.count("loss policy: ") == 4
    assert run.stdout.count("no_trained_tokens") == 1
    assert call_packline("preview", "config.yaml", "--policy", "answers", cwd=project).returncode == 2


def test_build_as_a_python_call(project: Path) -> None:
    code = "import pipeline; r = pipeline.build('config.yaml', workers=1); print(r.built, r.manifest.totals.rows)"
    run = subprocess.run([sys.executable, "-P", "-c", code], cwd=project, capture_output=True, text=True, check=False)
    assert run.stdout == "True 600\n", run.stderr


def test_a_defect_of_ours_is_told_in_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    """Through the text of a runner's error, quoted and wrapped as runners do."""
    from pipeline.exit_codes import explain
    from pipeline.failures import BlockFailure, find_failure

    failure = BlockFailure("bug", 'rows.jsonl (block 3-0): KeyError: "x" [pack.py:7]')
    found = find_failure(f"Traceback ...\n  {RuntimeError(str(failure))!r} [while running 'Pack']")
    assert found is not None
    assert (found.kind, found.message) == (failure.kind, failure.message)
    assert explain(found) == 1
    assert capsys.readouterr().err == 'packline: rows.jsonl (block 3-0): KeyError: "x" [pack.py:7]\n'


def test_help_is_quick_because_it_loads_nothing() -> None:
    code = (
        "import sys, pipeline.cli\n"
        "try: pipeline.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([n for n in ('apache_beam', 'tokenizers', 'tiktoken', 'pyarrow', 'torch') if n in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.rstrip().endswith("[]")
