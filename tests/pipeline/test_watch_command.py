"""`packline watch` as a user runs it: files come slowly, a signal comes in the middle of a round."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from building import PACKLINE, small_rows, write_config, write_jsonl
from without_beam import run_without_beam

from pipeline import launch
from pipeline.config import load_config
from pipeline.launch import build
from pipeline.verify import verify
from schemas.generations import load_chain, load_dataset
from schemas.store import Folder


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def drop_files_and_stop(folder: Path, process: "subprocess.Popen[str]", rows: dict[str, list[Any]]) -> str:
    """Ask to stop in the middle of the second round; what the watcher said in all."""
    wait_for((folder / "out/manifest.json").exists, process)
    with (folder / "data/b.jsonl").open("w") as file:
        for row in rows["b"]:  # for some looks
            file.write(json.dumps(row) + "\n")
            file.flush()
            time.sleep(0.08)
    wait_for(lambda: any((folder / "out/state").glob("*-g0001/*.begun")), process)
    write_jsonl(folder / "data/c.jsonl", rows["c"])
    os.killpg(process.pid, signal.SIGTERM)  # to the workers, too
    return process.communicate(timeout=120)[1]


@pytest.mark.slow
def test_files_that_come_slowly_and_a_signal_in_a_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call_packline: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = {name: small_rows(count, seed) for seed, (name, count) in enumerate({"a": 40, "b": 60, "c": 30}.items())}
    config = write_config(
        tmp_path,
        sources=[{"path": "data/*.jsonl", "transform": {"type": "openai"}}],
        engine="reference",
        certify="none",
        watch={"interval": "2s"},
    )
    write_jsonl(tmp_path / "data/a.jsonl", rows["a"])
    process = subprocess.Popen(
        [PACKLINE, "watch", "config.yaml", "--workers", "2"], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        said = drop_files_and_stop(tmp_path, process, rows)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, said
    assert "packline: ending" in said
    assert "generation 1: 1 file(s), 60 rows, 0 rejects" in said
    chain = load_chain(Folder("out"))
    assert [[(source.path, source.rows) for source in manifest.sources] for manifest in chain] == [
        [("data/a.jsonl", 40)],
        [("data/b.jsonl", 60)],
    ]

    again = call_packline("watch", "config.yaml", "--once", "--workers", "1", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "out holds generation 1, 2 file(s)" in again.stderr
    assert "generation 2: 1 file(s), 30 rows" in again.stderr
    assert list(verify("out", deep=True)) == []
    monkeypatch.setattr(launch, "run_beam", run_without_beam)
    union = build(load_config(config, ["output=union"]), workers=1).manifest
    whole = load_dataset(Folder("out"))
    assert (whole.turns.total, whole.channels.total) == (union.turns.total, union.channels.total)
    assert (whole.totals.rows, whole.totals.documents) == (union.totals.rows, union.totals.documents) == (130, 130)

    past = call_packline("verify", "out", "--generation", "3", cwd=tmp_path)
    assert past.returncode == 1
    assert "the data set's latest generation is 2" in past.stderr
