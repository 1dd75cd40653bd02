"""`packline inspect --pack`: every pack of a data set can be looked at, those of the holdout too."""

import re
from pathlib import Path
from typing import Any

import pytest
from building import small_rows, write_config, write_jsonl

from pipeline import cli
from schemas.manifest import Manifest, decode_manifest

ROWS = 60
PLACE = re.compile(r"rows\.jsonl at (\d+), piece 0")


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Build a data set of ROWS rows, in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")  # or rich cuts the places

    def run(**changes: Any) -> Manifest:
        write_jsonl(tmp_path / "rows.jsonl", small_rows(ROWS))
        write_config(tmp_path, **changes)
        assert cli.main(["build", "config.yaml", "--workers", "1"]) == 0
        return decode_manifest((tmp_path / "out" / "manifest.json").read_bytes(), "manifest")

    return run


def positions(arguments: list[str], packs: int, capsys: pytest.CaptureFixture[str]) -> list[int]:
    """Where in rows.jsonl the documents of the first `packs` packs begin."""
    capsys.readouterr()
    for number in range(packs):
        assert cli.main(["inspect", "out", "--pack", str(number), *arguments]) == 0
    return [int(at) for at in PLACE.findall(capsys.readouterr().out)]


def test_training_packs_and_held_out_packs_are_all_rows(build: Any, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = build(holdout=0.3)
    trained = positions([], manifest.totals.packs, capsys)
    packs = sum(shard.packs for shard in manifest.holdout.shards)
    assert packs > 1
    held_out = positions(["--holdout"], packs, capsys)
    assert len(trained) == manifest.totals.documents > 0
    assert len(held_out) == sum(shard.documents for shard in manifest.holdout.shards) > 0
    lines = Path("rows.jsonl").read_bytes().splitlines(keepends=True)
    starts = [sum(map(len, lines[:number])) for number in range(ROWS)]
    assert sorted([*trained, *held_out]) == starts

    assert cli.main(["inspect", "out", "--pack", str(packs), "--holdout"]) == 1
    assert f"no pack {packs}: the holdout has packs 0 to {packs - 1}" in capsys.readouterr().err


def test_a_holdout_that_is_not_there(build: Any, capsys: pytest.CaptureFixture[str]) -> None:
    build()
    assert cli.main(["inspect", "out", "--pack", "0", "--holdout"]) == 1
    assert "out has no holdout; build it with one (`holdout: 0.01`)" in capsys.readouterr().err
    assert cli.main(["inspect", "out", "--holdout"]) == 2
    assert "say which one with --pack N" in capsys.readouterr().err
    assert cli.main(["inspect", "out", "--pack", "-1"]) == 1
    assert "no pack -1: the data set has packs 0 to " in capsys.readouterr().err


def test_an_empty_holdout_has_no_packs(build: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Of few rows a small share may be none."""
    manifest = build(holdout=1e-6)
    assert manifest.holdout == type(manifest.holdout)(share=1e-6, shards=[], channels={})
    assert cli.main(["inspect", "out", "--pack", "0", "--holdout"]) == 1
    assert "no pack 0: the holdout has no packs" in capsys.readouterr().err
