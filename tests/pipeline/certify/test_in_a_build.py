"""The certificate in whole builds, and `packline certify` on what they publish."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from building import small_rows, write_config, write_jsonl
from families import write_family_folder
from without_beam import run_without_beam

from pipeline import launch
from pipeline.certify import steps
from pipeline.certify.dataset import certify_dataset
from pipeline.certify.raw_rows import Request, request_of
from pipeline.cli import main
from pipeline.config import load_config
from pipeline.launch import build
from pipeline.verify import verify
from pipeline.watch.loop import watch
from schemas.errors import DatasetError
from schemas.manifest import Manifest, decode_manifest

ODD: dict[str, Any] = {
    "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "secret b"}],
    "odd": True,
}
"""A row that a server is sent with another answer, as if the conversion had lost a digit of it."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a config."""

    def odd_request(row: Any, *settings: Any) -> Request:
        request = request_of(row, *settings)
        request["messages"][-1]["content"] += "3" if row.get("odd") else ""
        return request

    monkeypatch.setattr(steps, "request_of", odd_request)
    write_family_folder("qwen2_5", tmp_path / "model")
    write_config(tmp_path, block_bytes="8KiB", tokenizer={"path": "model"})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def built(*overrides: str) -> Manifest:
    """Made anew, from the finished blocks where there are some."""
    Path("out/manifest.json").unlink(missing_ok=True)
    return build(load_config(Path("config.yaml"), list(overrides)), workers=1).manifest


def test_a_difference_stops_the_build(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = small_rows(40)
    write_jsonl(folder / "rows.jsonl", [*rows, ODD])
    assert main(["build", "config.yaml", "--workers", "1"]) == 1
    told = capsys.readouterr().err
    assert "rows.jsonl at" in told
    assert "from token" in told
    assert "secret" not in told
    assert not (folder / "out" / "manifest.json").exists()
    found = built("allow_differences=true").certificate
    assert found is not None
    assert (found.compared, found.passed) == (41, 40)
    assert found.first_difference is not None
    assert found.first_difference.position == (folder / "rows.jsonl").read_bytes().rindex(b'{"messages"')
    with pytest.raises(DatasetError, match="1 of 41 rows"):
        built()  # its blocks are finished
    assert built("certify=none").certificate is None


def test_blocks_are_made_again_for_a_certificate_and_kept_without(folder: Path) -> None:
    def times() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in folder.glob("out/state/*/*.json")}

    write_jsonl(folder / "rows.jsonl", small_rows(40))
    assert built("certify=none").certificate is None
    first = times()
    assert len(first) > 2
    found = built().certificate
    assert found is not None
    assert found.compared == found.passed == 40
    second = times()
    assert all(second[name] > first[name] for name in first)
    assert built("certify=none").certificate is None
    assert times() == second
    again = build(load_config(Path("config.yaml")), workers=1)
    assert not again.built
    assert again.manifest.certificate is None  # as it was published


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [*small_rows(60), {"messages": [{"role": "user", "content": "<|im_end|>"}]}, {"no": "messages"}]
    rows += [{"messages": [*rows[0]["messages"], {"role": "assistant", "content": "<|im_end|> [bold]"}]}]
    write_jsonl(folder / "rows.jsonl", rows)
    settings = ["--set", "max_reject_fraction=0.5", "--set", "holdout=0.3"]
    built(*settings[1::2])
    assert main(["certify", "out", "config.yaml", *settings]) == 0
    counts = dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines())
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
    assert main(["certify", "out/manifest.json", "config.yaml", *settings, "-n", "30"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["rows", "30"]
    assert main(["certify", "out", "config.yaml", *settings, "--set", "seq_len=256"]) == 2
    assert "another recipe (seq_len was 512, is 256)" in capsys.readouterr().err


def test_the_command_on_generations(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that no generation has taken yet do not matter."""
    monkeypatch.setattr(launch, "run_beam", run_without_beam)
    for number, name in enumerate(("data/b", "data/a", "data/c")):
        write_jsonl(folder / f"{name}.jsonl", small_rows(20, seed=number))
        if number < 2:
            sources = [{"path": "data/*.jsonl", "transform": {"type": "openai"}}]
            write_config(folder, sources=sources, tokenizer={"path": "model"}, watch={"interval": 0.01})
            watch(load_config(folder / "config.yaml"), once=True, workers=1)
    for generation, rows in (("0", 20), ("latest", 40)):
        assert main(["certify", "out", "config.yaml", "--generation", generation]) == 0
        counts = dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines())
        assert int(counts["rows"]) == int(counts["compared"]) == rows
        assert counts["other ids in the shards"] == "0"
    assert main(["plan", "config.yaml"]) == 0
    assert "holds generation 1; 1 of these files are new" in " ".join(capsys.readouterr().out.split())
    assert main(["inspect", "out", "--pack", "0", "--generation", "0"]) == 0
    with pytest.raises(SystemExit):
        main(["verify", "out", "--generation", "-1"])
    assert "neither a number from 0 up nor `latest`" in capsys.readouterr().err


def test_the_command_finds_differences(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(folder / "rows.jsonl", [*small_rows(20), ODD, *small_rows(20)])
    built("allow_differences=true")
    assert main(["certify", "out", "config.yaml"]) == 1
    shown = capsys.readouterr().out
    assert "rows.jsonl at" in shown
    assert " '3' " in shown  # of the number as the server sees it
    assert list(verify("out", deep=True)) == []
    golden = folder / "out" / "tokenizer" / "golden.json"
    text = golden.read_text("utf-8")
    golden.write_text(re.sub(r"[0-9a-f]{64}", "a" * 64, text), "utf-8")
    assert [problem.partition(",")[0] for problem in verify("out", deep=False)] == [
        f"tokenizer/golden.json: of the template {'a' * 12}"
    ]
    golden.write_text(text[:-10], "utf-8")
    assert ["golden.json: no golden vectors" in problem for problem in verify("out", deep=False)] == [True]
    damage_a_shard(folder / "out")
    report = certify_dataset("out", load_config(folder / "config.yaml"), None)
    assert (report.certificate.differences, report.other_ids, len(report.other_places)) == (1, 1, 1)
    assert not report.is_clean
    write_jsonl(folder / "rows.jsonl", small_rows(3))
    with pytest.raises(DatasetError, match=r"rows\.jsonl changed"):
        certify_dataset("out", load_config(folder / "config.yaml"), None)


def damage_a_shard(dataset: Path) -> None:
    """Another id for one token, in place."""
    manifest = decode_manifest((dataset / "manifest.json").read_bytes(), "manifest")
    path = dataset / manifest.shards[0].name
    data = path.read_bytes()
    ids = pa.ipc.open_file(pa.py_buffer(data)).get_batch(0).column("input_ids").flatten().to_numpy()
    at = data.find(ids[:16].tobytes())
    assert at > 0
    path.write_bytes(data[: at + 40] + (7).to_bytes(4, "little") + data[at + 44 :])
