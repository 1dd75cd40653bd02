"""A build on any runner makes the same bytes: through the Job API, as Flink and Spark do, and where nothing fuses."""

import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from building import PACKLINE, data_files, finished_states, small_rows, write_config, write_jsonl
from clusters import DEPENDENCIES, ROOT, build_wheel, libraries_alone, make_environment, started, wait_until
from model_folders import package_file
from ports import free_port

import pipeline
from pipeline.assemble import PackedBlock
from pipeline.block_info import BlockInfo
from pipeline.blocks import DocumentBlock
from pipeline.failures import BudgetExceeded, RunnerFailed
from pipeline.token_block import TokenBlock
from schemas.errors import ConfigError

pytestmark = pytest.mark.slow

JOB_SERVICE = "apache_beam.runners.portability.local_job_service_main"
WORKER_POOL = "apache_beam.runners.worker.worker_pool_main"
CONVERT = """
from polite_rows.words import polite

def convert(row):
    *before, last = row["messages"]
    return [*before, {**last, "content": polite(last["content"])}]
"""
WORDS = "import re\n\ndef polite(text):\n    return re.sub('words', 'words, please', text)\n"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def job_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    command = libraries_alone(JOB_SERVICE, f"--port={port}")
    with started(command, tmp_path_factory.mktemp("service"), port, PYTHONPATH=DEPENDENCIES):
        yield f"--job_endpoint=localhost:{port}"


@pytest.fixture(scope="module")
def pool(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    folder = tmp_path_factory.mktemp("pool")
    programs = make_environment(wheel, folder / "environment")
    port = free_port()
    command = [str(programs / "python"), "-m", WORKER_POOL, f"--service_port={port}"]
    with started(command, folder / "elsewhere", port, PATH=f"{programs}:{os.environ['PATH']}"):
        yield "--environment_type=EXTERNAL", f"--environment_config=localhost:{port}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config with nothing but relative paths, and what they name; a package of the user's that converts the rows."""
    folder = tmp_path_factory.mktemp("project")
    write_jsonl(folder / "rows" / "a.jsonl", small_rows(300))
    write_jsonl(folder / "rows" / "b.jsonl", small_rows(100, seed=1))
    shutil.copy(package_file("dashscope", "resources/qwen.tiktoken"), folder / "qwen.tiktoken")
    (folder / "more.json").write_text(json.dumps({"<|more|>": {"id": 151660}}))
    shutil.copy(package_file("pipeline", "chat/templates/chatml.jinja"), folder / "chat.jinja")
    (folder / "polite_rows").mkdir()
    for name, text in (("__init__", ""), ("rows", CONVERT), ("words", WORDS)):
        (folder / "polite_rows" / f"{name}.py").write_text(text)
    write_config(
        folder,
        sources=[{"path": "rows/*.jsonl", "transform": {"type": "custom", "function": "polite_rows.rows:convert"}}],
        tokenizer={"path": "qwen.tiktoken", "preset": "qwen2.5", "special_tokens": "more.json"},
        chat_template="chat.jinja",
        certify="none",
    )
    return folder


@pytest.fixture
def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    return folder


def build(output: str, *changes: str, **how: Any) -> Any:
    from pipeline.config import load_config

    return pipeline.build(load_config(Path("config.yaml"), [f"output={output}", *changes]), **how)


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, bytes]:
    """The data set as the embedded runner makes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        build("embedded", workers=1)
    return data_files(folder / "embedded")


def test_the_wheel_has_every_file_of_the_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        found = {name for name in packed.namelist() if ".dist-info/" not in name}
    files = (path for name in ("schemas", "pipeline", "train") for path in (ROOT / name).rglob("*") if path.is_file())
    assert found == {path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts}


def test_two_processes_of_the_embedded_runner(in_folder: Path, expected: dict[str, bytes]) -> None:
    build("two", workers=2)
    assert data_files(in_folder / "two") == expected


def test_a_job_outlives_the_process_that_submitted_it(
    folder: Path, tmp_path: Path, job_service: str, pool: tuple[str, str], expected: dict[str, bytes]
) -> None:
    """In workers elsewhere, with nothing left of the submitting folder but its rows."""
    home = tmp_path / "home"
    shutil.copytree(folder, home, ignore=shutil.ignore_patterns("embedded", "two", "loopback"))
    arguments = ["build", "config.yaml", "--runner", "PortableRunner", "--", job_service, *pool]
    process = subprocess.Popen([PACKLINE, *arguments], cwd=home)
    dataset = home / "out"
    wait_until(lambda: any(dataset.glob("state/*/*.begun")), process)
    process.kill()
    process.wait()
    assert not (dataset / "manifest.json").exists()
    for path in set(home.iterdir()) - {dataset, home / "rows"}:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    wait_until((dataset / "manifest.json").exists)
    assert data_files(dataset) == expected


def test_loopback(in_folder: Path, job_service: str, expected: dict[str, bytes]) -> None:
    result = build("loopback", runner="portable", beam_args=[job_service, "--environment_type=LOOPBACK"])
    assert data_files(in_folder / "loopback") == expected
    assert {state["process"].rpartition(":")[2] for state in finished_states(in_folder / "loopback")} == {
        str(os.getpid())
    }
    assert result.workers == 1


def test_what_a_worker_reports_comes_back(in_folder: Path, job_service: str, pool: tuple[str, str]) -> None:
    with pytest.raises(BudgetExceeded, match="max_reject_fraction is 0"):
        build(
            "rejected", "seq_len=200", "max_reject_fraction=0", runner="PortableRunner", beam_args=[job_service, *pool]
        )


JAVA = """#!/bin/sh
echo "$@" > {folder}/arguments.txt
for argument; do test "$before" = --job-port && port="$argument"; before="$argument"; done
PYTHONPATH={libraries} exec {python} -S -m {service} --port="$port"
"""


def test_flink_runner_with_a_job_server_of_its_own(
    in_folder: Path, tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beam's own FlinkRunner from end to end; its Java job server is Beam's local one in disguise."""
    from pipeline.cli import main

    java, jar = tmp_path / "java", tmp_path / "job-server.jar"
    java.write_text(JAVA.format(folder=tmp_path, libraries=DEPENDENCIES, python=sys.executable, service=JOB_SERVICE))
    java.chmod(0o755)
    jar.touch()
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    handler, children = signal.getsignal(signal.SIGINT), set(psutil.Process().children())
    command = ["build", "config.yaml", "--set", "output=flink", "--runner", "FlinkRunner", "--"]
    options = [f"--flink_job_server_jar={jar}", "--flink_master=flink:8081", "--parallelism=2"]
    assert main([*command, *options, "--environment_type=LOOPBACK"]) == 0
    assert data_files(in_folder / "flink") == expected
    assert "--flink-master http://flink:8081" in (tmp_path / "arguments.txt").read_text()
    assert signal.getsignal(signal.SIGINT) == handler
    left = set(psutil.Process().children()) - children  # Beam need not have waited for a server that has ended
    assert not psutil.wait_procs(left, timeout=10)[1]


def test_what_a_job_server_says_before_it_fails_is_shown(
    in_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.cli import main

    (tmp_path / "java").write_text("#!/bin/sh\necho no Flink at this address; exit 1\n")
    (tmp_path / "java").chmod(0o755)
    (tmp_path / "job-server.jar").touch()
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    options = [f"--flink_job_server_jar={tmp_path}/job-server.jar", "--flink_master=flink:8081"]
    assert main(["build", "config.yaml", "--set", "output=none", "--runner", "FlinkRunner", "--", *options]) == 1
    said = capsys.readouterr().err
    assert "FlinkRunner failed" in said
    assert "no Flink at this address" in said


def test_a_misspelt_option_of_a_job_service_is_refused(in_folder: Path, job_service: str) -> None:
    with pytest.raises(ConfigError, match="has no option --paralelism=2; did you mean --parallelism"):
        build("misspelt", runner="PortableRunner", beam_args=[job_service, "--paralelism=2"])


def test_a_job_service_that_is_not_there_is_named(in_folder: Path) -> None:
    with pytest.raises(RunnerFailed, match="PortableRunner failed"):
        build("nowhere", runner="PortableRunner", beam_args=["--job_endpoint=localhost:1", "--job_server_timeout=1"])


def test_where_no_steps_are_fused_blocks_travel_encoded(
    in_folder: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every type of block through its coder and a shuffle."""
    import apache_beam as beam

    from pipeline import transforms

    make_step, crossed = transforms._step, []

    def shuffled(plan_file: Any, function: Any, output: type) -> Any:
        crossed.append(output)
        return make_step(plan_file, function, output) | beam.Reshuffle()

    monkeypatch.setattr(transforms, "_step", shuffled)
    build("unfused", workers=1)
    assert data_files(in_folder / "unfused") == expected
    assert crossed == [DocumentBlock, TokenBlock, PackedBlock, BlockInfo]
