"""A folder with rows and a config, ready to be built; commands within the tests' own process."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from building import small_rows, write_config, write_jsonl

import pipeline.cli


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with 600 rows and a config that cuts them into some twenty units."""
    write_jsonl(tmp_path / "rows.jsonl", small_rows(600))
    write_config(tmp_path)
    return tmp_path


@pytest.fixture
def call_packline(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """As run_packline, in this process, which imports Beam and transformers once for all tests."""

    monkeypatch.setattr(pipeline.cli, "collect_rarely", lambda: None)  # this process lives long

    def call(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
        monkeypatch.chdir(cwd)
        code = pipeline.cli.main(arguments)
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return call
