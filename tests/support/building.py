"""Builds as a user runs them, and the small rows that they are made of."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

PACKLINE = str(Path(sys.executable).parent / "packline")
QWEN = {"path": "package://dashscope/resources/qwen.tiktoken", "preset": "qwen2.5"}
LLAMA = {"path": "package://llama_models/llama3/tokenizer.model", "preset": "llama3"}


def run_packline(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """The console script in a process of its own."""
    return subprocess.run([PACKLINE, *arguments], cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


def small_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Conversations of one to three turns, of very different lengths."""
    rng = random.Random(seed)
    words = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    rows = []
    for _ in range(count):
        messages: list[dict[str, Any]] = [{"role": "system", "content": "Count."}] if rng.random() < 0.3 else []
        for _ in range(rng.choice((1, 1, 2, 3))):
            said = rng.choices(words, k=rng.randint(1, 60))
            messages.append({"role": "user", "content": " ".join(said)})
            messages.append({"role": "assistant", "content": f"{len(said)} words: {said[0]}\n"})
        rows.append({"messages": messages})
    return rows


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def write_config(folder: Path, **changes: Any) -> Path:
    config: dict[str, Any] = {
        "output": "out",
        "seq_len": 512,
        "sources": [{"path": "rows.jsonl", "transform": {"type": "openai"}}],
        "tokenizer": QWEN,
        "block_bytes": "16KiB",
        **changes,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config), "utf-8")
    return path


def data_files(dataset: Path) -> dict[str, bytes]:
    """The bytes of everything that two builds of one recipe must agree in. What a kill left half written begins with a
    dot; no data set names it."""
    folders = ("shards", "holdout", "rejects", "tokenizer")
    files = [dataset / "manifest.json", *(file for name in folders for file in sorted((dataset / name).glob("[!.]*")))]
    return {file.relative_to(dataset).as_posix(): file.read_bytes() for file in files if file.exists()}


def finished_states(dataset: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in sorted(dataset.glob("state/*/*.json"))]


def kill_in_the_middle(arguments: list[str], cwd: Path, dataset: Path, finished: int) -> int:
    """Start a build, SIGKILL it and its workers once `finished` blocks are there; how many there were then."""
    process = subprocess.Popen(
        [PACKLINE, *arguments], cwd=cwd, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while len(list(dataset.glob("state/*/*.json"))) < finished:
        assert process.poll() is None, "the build ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return len(list(dataset.glob("state/*/*.json")))
