"""What a run says of itself: times in their order, and rates of the blocks that it computed, not of those it found."""

import json
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from building import kill_in_the_middle, run_packline

from pipeline.block_info import BlockInfo, BlockState
from pipeline.run_facts import RunFacts
from pipeline.turns import TurnAudit

TIMES = ["process_start", "build_start", "first_block_read", "last_block_written", "published"]
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def finished_block(number: int, begun: float, finished: float, input_bytes: int, peak_memory: int) -> BlockState:
    info = BlockInfo(
        unit=number,
        block=0,
        last=True,
        unit_sha256="0" * 64,
        input_bytes=input_bytes,
        rows={},
        rejects={},
        channels={},
        holdout_channels={},
        truncated=0,
        straddling=0,
        turns=TurnAudit(),
        certificate=None,
        difference=None,
        shard=None,
        holdout=None,
        reject_file=None,
    )
    return BlockState(info=info, process="h:1", peak_memory=peak_memory, begun=at(begun), finished=at(finished))


def read_facts(dataset: Path) -> dict[str, Any]:
    """Of the latest run."""
    facts: dict[str, Any] = json.loads(max((dataset / "runs").iterdir()).read_bytes())
    return facts


def input_of(dataset: Path) -> dict[str, int]:
    """Input bytes of the finished blocks, by name."""
    states = sorted(dataset.glob("state/*/*.json"))
    return {path.stem: json.loads(path.read_bytes())["info"]["input_bytes"] for path in states}


def test_rates_count_the_blocks_of_this_run() -> None:
    facts = RunFacts(process_start=at(0), build_start=at(2))
    facts.add(finished_block(0, -900, -800, 10**9, 10**9))  # of a run before
    for number, (begun, finished) in enumerate([(7, 9), (4, 6), (5, 8)], 1):
        facts.add(finished_block(number, begun, finished, number * 10**6, 100 + number))
    facts.published = at(14)
    assert (facts.first_block_read, facts.last_block_written) == (at(4), at(9))
    assert (facts.blocks, facts.input_bytes, facts.peak_memory) == (3, 6 * 10**6, 103)
    assert (facts.work_seconds, facts.seconds) == (10, 14)
    told = facts.as_json()
    assert list(told["times"]) == list(told["seconds"]) == TIMES
    assert list(told["seconds"].values()) == [0, 2, 4, 9, 14]
    assert told["work_megabytes_per_second"] == 0.6
    assert told["process_megabytes_per_second"] == pytest.approx(6 / 14, abs=1e-3)


def test_a_run_that_finds_every_block_has_no_work() -> None:
    facts = RunFacts(process_start=at(0), build_start=at(2), published=at(3))
    facts.add(finished_block(0, -900, -800, 10**9, 10**9))
    told = facts.as_json()
    assert list(told["times"]) == ["process_start", "build_start", "published"]
    assert (told["blocks"], told["work_megabytes_per_second"], told["process_megabytes_per_second"]) == (0, 0, 0)


def test_the_start_of_the_process_counts_from_its_launch() -> None:
    """And not from the system's boot in whole seconds."""
    code = "from pipeline.run_facts import process_start; print(process_start().isoformat())"
    before = datetime.now(UTC) - timedelta(seconds=0.05)  # the kernel counts in hundredths
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    launched = datetime.fromisoformat(run.stdout.strip())
    assert before <= launched <= datetime.now(UTC)


@pytest.mark.slow
def test_facts_of_whole_and_of_resumed_runs(project: Path) -> None:
    """Also: workers are ended, not waited for, and none is left once the data set is there."""
    whole = run_packline("build", "config.yaml", "--workers", "2", "--set", "output=whole", cwd=project)
    assert whole.returncode == 0, whole.stderr
    deadline = time.monotonic() + 5
    while workers := workers_of(project):
        assert time.monotonic() < deadline, workers
        time.sleep(0.05)
    facts = read_facts(project / "whole")
    assert list(facts["times"]) == TIMES
    times = [datetime.fromisoformat(told) for told in facts["times"].values()]
    assert all(earlier <= later for earlier, later in pairwise(times))
    assert all(moment.utcoffset() == timedelta(0) for moment in times)
    blocks = input_of(project / "whole")
    size = (project / "rows.jsonl").stat().st_size
    assert (facts["blocks"], facts["input_bytes"]) == (len(blocks), size)
    assert sum(blocks.values()) == size
    assert (facts["workers"], facts["runner"], facts["engine"]) == (2, "FnApiRunner", "gigatoken")
    assert facts["peak_memory"] == max(
        json.loads(path.read_bytes())["peak_memory"] for path in (project / "whole").glob("state/*/*.json")
    )
    assert "MB/s" in whole.stdout

    arguments = ["build", "config.yaml", "--workers", "1", "--set", "output=resumed"]
    kill_in_the_middle(arguments, project, project / "resumed", finished=3)
    before = input_of(project / "resumed")
    assert run_packline(*arguments, cwd=project).returncode == 0
    resumed = read_facts(project / "resumed")
    assert resumed["blocks"] == len(blocks) - len(before) > 0
    assert resumed["input_bytes"] == size - sum(before.values())
    seconds = resumed["seconds"]
    work = seconds["published"] - seconds["first_block_read"]
    assert resumed["work_megabytes_per_second"] == pytest.approx(resumed["input_bytes"] / 1e6 / work, rel=0.02)
    manifests = [(project / name / "manifest.json").read_text() for name in ("whole", "resumed")]
    assert manifests[0] == manifests[1]
    assert not any(told in manifests[0] for told in ("times", "seconds", facts["times"]["published"][:16]))


def workers_of(folder: Path) -> list[str]:
    """Command lines of the worker processes that work in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(folder) and "pipeline.worker" in process.cmdline():
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found
