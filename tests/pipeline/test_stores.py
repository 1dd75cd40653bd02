"""Builds from and onto object stores."""

import json
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from building import QWEN, run_packline, small_rows, write_config
from servers import KEY, SECRET, Store

from pipeline.build_plan import BuildPlan, plan_build
from pipeline.cli import main
from pipeline.config import BuildConfig, load_config
from pipeline.launch import build
from pipeline.plan_file import write_plan
from pipeline.readers import read_blocks
from pipeline.readers.files import SourceChanged
from pipeline.transforms import BuildDataset
from pipeline.verify import verify
from schemas.errors import ConfigError, StoreError
from schemas.store import Folder

pytestmark = pytest.mark.slow
QUICK: dict[str, Any] = {"certify": "none", "engine": "reference"}


def put_sources(folder: Folder) -> list[dict[str, Any]]:
    """Parquet of several row groups, compressed lines, and plain lines for several units."""
    lines = ["".join(json.dumps(row) + "\n" for row in small_rows(150, seed)).encode() for seed in (1, 2)]
    folder.write("rows/a.jsonl", lines[0])
    folder.write("rows/b.jsonl.zst", zstandard.compress(lines[1]))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(small_rows(150, 3)), sink, row_group_size=40)
    folder.write("rows/c.parquet", sink.getvalue())
    return [{"path": f"{folder.url}/rows/*", "profile": folder.profile, "transform": {"type": "openai"}}]


@dataclass(frozen=True)
class Built:
    """The same build on a disk and on both servers; the one on moto by the command, with worker processes."""

    project: Path
    plan: BuildPlan
    folders: tuple[Folder, ...]
    printed: str


@pytest.fixture(scope="module")
def built(moto_store: Store, juicefs_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Built:
    project = tmp_path_factory.mktemp("project")
    sources = put_sources(moto_store.new_folder())
    folders = (Folder(f"file://{project}/out"), moto_store.new_folder(), juicefs_store.new_folder())
    path = write_config(project, sources=sources, output=folders[1].url, output_profile="moto", holdout=0.1, **QUICK)
    for folder in folders[::2]:
        config = load_config(path, [f"output={folder.url}", f"output_profile={folder.profile or 'null'}"])
        plan = build(config, workers=1).plan
    run = run_packline("--debug", "build", "config.yaml", "--workers", "2", cwd=project)
    assert run.returncode == 0, run.stderr
    return Built(project, plan, folders, run.stdout + run.stderr)


def contents(folder: Folder) -> dict[str, bytes]:
    """What two builds must agree in."""
    names = [file.name for file in folder.files("") if not file.name.startswith(("state/", "runs/"))]
    return {name: folder.read(name) for name in names}


def test_the_data_set_is_the_same_on_every_store(built: Built) -> None:
    on_disk, *others = map(contents, built.folders)
    assert len(built.plan.units) > 5
    assert {file.etag is None for file in built.plan.files.values()} == {False}
    assert {"manifest.json", "tokenizer/golden.json"} < set(on_disk)
    for other in others:
        assert other == on_disk
    for folder in built.folders:
        assert list(verify(folder.url, folder.profile, deep=True)) == []


def test_a_second_build_finds_the_first(built: Built) -> None:
    config = load_config(built.project / "config.yaml")
    assert not build(config, workers=1).built


def test_no_secret_is_written_printed_or_sent(
    built: Built, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(built.project)
    assert main(["plan", "config.yaml"]) == 0
    told = capfd.readouterr().out
    assert built.folders[1].url in told
    with pytest.raises(ConfigError, match="no-such-bucket") as failed:
        main(["--debug", "build", "config.yaml", "--set", "output=s3://no-such-bucket/x", "--workers", "1"])
    told += "".join(traceback.format_exception(failed.value)) + "".join(capfd.readouterr())
    sent = cloudpickle.dumps((built.plan, BuildDataset(write_plan(built.plan))))
    assert b"moto" in sent  # the profile's name, by which a worker finds it
    stored = [folder.read(file.name) for folder in built.folders for file in folder.files("")]
    for data in (*stored, sent, built.printed.encode(), told.encode()):
        assert KEY.encode() not in data
        assert SECRET.encode() not in data


def test_a_source_that_changes_on_the_store_stops_the_build(moto_store: Store) -> None:
    folder = moto_store.new_folder()
    config = BuildConfig.model_validate(
        {"output": "unused", "seq_len": 512, "tokenizer": QWEN, "sources": put_sources(folder), "block_bytes": "16KiB"}
    )
    unit = plan_build(config).units[1]
    blocks = read_blocks(unit, 2**14, 2**20)
    folder.write("rows/a.jsonl", folder.read("rows/a.jsonl").replace(b"one", b"two"))
    with pytest.raises(SourceChanged, match=r"rows/a\.jsonl changed: planned was \d+ bytes with etag"):
        list(blocks)


def test_wrong_keys_are_told(juicefs_store: Store, profiles_file: Path) -> None:
    with profiles_file.open("a") as file:
        file.write(f"wrong: {{endpoint_url: '{juicefs_store.endpoint}', key: {KEY}, secret: wrong-secret}}\n")
    with pytest.raises(StoreError, match="credentials come from") as caught:
        Folder(f"{juicefs_store.url}/x", "wrong").write("a", b"x")
    assert "tried" not in str(caught.value)


@pytest.mark.parametrize("output", ["s3://key:secret@bucket/x", "https://host/x?sig=secret", "hf://datasets/a/b"])
def test_outputs_that_are_refused(output: str, tmp_path: Path) -> None:
    config = load_config(write_config(tmp_path, output=output))
    with pytest.raises(ConfigError, match="output") as caught:
        plan_build(config)
    assert "secret" not in str(caught.value)


def test_memory_is_for_one_process(tmp_path: Path) -> None:
    sources = put_sources(Folder(f"memory://{tmp_path.name}"))
    config = load_config(
        write_config(tmp_path, sources=sources, output=f"memory://{tmp_path.name}/out", certify="none")
    )
    for options in ({"workers": 2}, {"runner": "PrismRunner"}):
        with pytest.raises(ConfigError, match="memory:// is seen by one process alone"):
            build(config, **options)
    assert build(config, workers=1).built
    assert list(verify(config.output, deep=True)) == []
