"""Builds as a user runs them, in processes of their own, and what they measured."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKLINE = str(Path(sys.executable).parent / "packline")
HERE = Path(__file__).parent
RANKS = {"path": "package://dashscope/resources/qwen.tiktoken", "preset": "qwen2.5"}


@dataclass(frozen=True)
class Build:
    """One run of `packline build`. Seconds: from the launch to the first block, from there to the manifest, from the
    launch to the end of the process."""

    megabytes: float
    start: float
    work: float
    whole: float
    fill: float
    packs: int
    memory: int  # bytes, of the largest worker

    @property
    def work_rate(self) -> float:
        return self.megabytes / self.work

    @property
    def whole_rate(self) -> float:
        return self.megabytes / self.whole


def build(rows: Path, scratch: Path, workers: int, **changes: Any) -> Build:
    """Raises CalledProcessError. What it writes is removed."""
    output = scratch / "output"
    values: dict[str, Any] = {
        "output": str(output),
        "seq_len": 2048,
        "sources": [{"path": str(rows), "transform": {"type": "openai"}}],
        "tokenizer": RANKS,
        "too_long": "truncate",
    }
    config = scratch / "build.yaml"
    config.write_text(json.dumps(values | changes), "utf-8")
    began = time.perf_counter()
    command = [PACKLINE, "build", str(config), "--workers", str(workers)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    whole = time.perf_counter() - began
    (facts,) = (json.loads(path.read_bytes()) for path in (output / "runs").iterdir())
    manifest = json.loads((output / "manifest.json").read_bytes())
    shutil.rmtree(output)
    seconds = facts["seconds"]
    return Build(
        megabytes=facts["input_bytes"] / 1e6,
        start=seconds["first_block_read"],
        work=seconds["published"] - seconds["first_block_read"],
        whole=whole,
        fill=manifest["fill"],
        packs=manifest["totals"]["packs"],
        memory=facts["peak_memory"],
    )


def median(builds: list[Build]) -> Build:
    """The run that took the median time."""
    return sorted(builds, key=lambda each: each.whole)[len(builds) // 2]


def measured(script: str, *arguments: object, python: str = sys.executable) -> dict[str, Any]:
    """What a script beside this file prints last, a line of JSON, run in a process of its own. Raises
    CalledProcessError."""
    command = [python, str(HERE / script), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found
