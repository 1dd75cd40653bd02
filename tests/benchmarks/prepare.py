"""What preparing data costs: the whole process and the work alone, against other projects and against the bare encoder.

    python tests/benchmarks/prepare.py [--quick | --peers] [--megabytes 120] [--only code agents]

`make bench` runs it with --peers. Every figure comes from processes of their own; ours is the run of median time. The
table is printed, and written into docs/benchmarks.md. torchtune is measured where PACKLINE_TORCHTUNE_PYTHON names the
Python of an environment that has torchtune 0.6.1, torchao 0.10.0, datasets below 4 and torch.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from measure import RANKS, Build, build, measured, median
from rich.console import Console
from rich.table import Table
from rows import write_rows

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from model_folders import package_file, qwen_model_folder, trl_template
from tables import markdown_table, replace_marked

DOCS = Path(__file__).parents[2] / "docs" / "benchmarks.md"
GSM8K = Path(__file__).parents[3] / "shared" / "data" / "gsm8k.jsonl"
TORCHTUNE = os.environ.get("PACKLINE_TORCHTUNE_PYTHON")
SEQ_LENS = {"code": 2048, "chat": 2048, "agents": 8192}
MOST_OF_PEERS = {"code": 30.0, "chat": 30.0, "agents": 6.0}
"""Megabytes: they are slow, and their rate does not depend on it."""


@dataclass
class Bench:
    """The settings of a run of the benchmark, and the lines of its table: what, how much, beside what."""

    scratch: Path
    tokenizer: dict[str, Any]
    megabytes: float
    repeats: int
    peers: bool
    chat: Path | None
    workers: int = 2
    lines: list[tuple[str, str, str]] = field(default_factory=list)

    def rows(self, kind: str, megabytes: float) -> Path:
        """A file of rows of messages, made once."""
        path = self.scratch / f"{kind}-{megabytes:g}.jsonl"
        if not path.exists():
            if kind == "chat" and self.chat:
                write_chats(self.chat, path)
            else:
                write_rows("prose" if kind == "chat" else kind, path, megabytes)
        return path

    def folder(self, kind: str) -> Path:
        """A model folder; agents think, so theirs has a template for that."""
        folder = self.scratch / f"model-{kind}"
        if not folder.exists():
            shutil.copytree(qwen_model_folder(), folder)
            if kind == "agents":
                settings = json.loads((folder / "tokenizer_config.json").read_bytes())
                settings["chat_template"] = trl_template("qwen3")
                (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
        return folder

    def build(self, rows: Path, workers: int | None = None, **changes: Any) -> Build:
        settings = {"tokenizer": self.tokenizer, **changes}
        return median([build(rows, self.scratch, workers or self.workers, **settings) for _ in range(self.repeats)])

    def add(self, what: str, figure: str, beside: str = "") -> None:
        self.lines.append((what, figure, beside))
        print(f"{what}: {figure}  {beside}", file=sys.stderr, flush=True)


def write_chats(source: Path, path: Path) -> None:
    """Questions and answers, or rows of messages, as rows of messages."""
    with path.open("w", encoding="utf-8") as file:
        for line in source.read_text("utf-8").splitlines():
            row = json.loads(line)
            if "messages" not in row:
                said = (("user", row["question"]), ("assistant", row["answer"]))
                row = {"messages": [{"role": role, "content": text} for role, text in said]}
            file.write(json.dumps({"messages": row["messages"]}, ensure_ascii=False) + "\n")


def bench_rows(bench: Bench, kind: str) -> None:
    """Both rates of one kind of rows, against the encoder and the peers on rows of the same kind."""
    rows = bench.rows(kind, bench.megabytes if kind == "code" else min(bench.megabytes, 20.0))
    seq_len = SEQ_LENS[kind]
    peers = dict(measure_peers(bench, kind)) if bench.peers else {}
    name = f"{kind}, {rows.stat().st_size / 1e6:.0f} MB, seq_len {seq_len:,}"
    for certify, suffix in (("none", ""), (None, ", certified")):
        tokenizer = {"path": str(bench.folder(kind))} if kind == "agents" else bench.tokenizer
        made = bench.build(rows, seq_len=seq_len, certify=certify, tokenizer=tokenizer)
        for phase, rate in (("work", made.work_rate), ("whole process", made.whole_rate)):
            ratios = ", ".join(f"{rate / other:.1f} times {peer}" for peer, other in peers.items())
            bench.add(f"{name}{suffix}: {phase}", f"{rate:.2f} MB/s", ratios)
    bench.add(
        f"{name}: fill, largest worker", f"{made.fill:.2%}, {made.memory / 2**20:,.0f} MiB", f"{made.packs:,} packs"
    )
    if kind != "agents":
        bench_encoder(bench, kind, rows)
    if kind == "code":
        made = bench.build(rows, seq_len=8192, certify="none")
        bench.add(f"{kind}: fill at 8,192", f"{made.fill:.2%}", f"{made.packs:,} packs")


def bench_encoder(bench: Bench, kind: str, rows: Path) -> None:
    """Seconds of the bare encoder to those of a worker, for the same text. One worker where there is one block."""
    workers = bench.workers if rows.stat().st_size > 2 * 16 * 2**20 else 1
    made = bench.build(rows, workers, certify="none")
    bare = sorted((measured("encoder.py", rows) for _ in range(bench.repeats)), key=lambda each: each["seconds"])
    seconds, text = bare[len(bare) // 2]["seconds"], bare[0]["megabytes_of_text"]
    share = seconds / (made.work * workers)
    bench.add(f"{kind}: {bare[0]['engine']} alone, first pass", f"{text / seconds:.1f} MB/s of text", f"{text:.0f} MB")
    bench.add(f"{kind}: work of a worker / {bare[0]['engine']} alone", f"{share:.1%}", f"{workers} worker(s)")


def measure_peers(bench: Bench, kind: str) -> Iterator[tuple[str, float]]:
    """MB/s of each peer, told in the table as well."""
    rows = bench.rows(kind, MOST_OF_PEERS[kind])
    shared = (rows, bench.folder(kind), "--seq-len", SEQ_LENS[kind], "--workers", bench.workers)
    runs: dict[str, Callable[[], dict[str, Any]]] = {
        "TRL with masks": lambda: measured("peers.py", "trl", *shared, "--masks"),
        "TRL without masks": lambda: measured("peers.py", "trl", *shared),
    }
    if TORCHTUNE and kind == "code":
        ranks = package_file("llama_models", "llama3/tokenizer.model")
        runs["torchtune packed"] = lambda: measured("peers.py", "torchtune", rows, ranks, python=TORCHTUNE)
    for peer, run in runs.items():
        found = run()
        libraries = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
        told = f"{found['megabytes_per_second']:.3f} MB/s, {found['fill']:.2%} full"
        bench.add(f"{kind}, {found['megabytes']:.0f} MB: {peer}", told, libraries)
        yield peer, found["megabytes_per_second"]


def bench_start(bench: Bench) -> None:
    rows = bench.rows("code", 0.01)
    for tokenizer, name in ((bench.tokenizer, "model folder"), (RANKS, "rank file")):
        for workers in (1, bench.workers):
            runs = sorted(
                (build(rows, bench.scratch, workers, tokenizer=tokenizer) for _ in range(bench.repeats)),
                key=lambda each: each.start,
            )
            made = runs[len(runs) // 2]
            told = f"{made.start:.2f} s"
            bench.add(f"start to first block, {workers} worker(s), {name}", told, f"10 KB, whole {made.whole:.2f} s")


def bench_stages(bench: Bench) -> None:
    rows = bench.rows("code", min(bench.megabytes, 30.0))
    found = measured("stages.py", rows, json.dumps(bench.tokenizer))
    seconds = {stage: taken for stage, taken in found["seconds"].items() if stage not in OUTSIDE}
    total = sum(seconds.values())
    for stage, taken in found["seconds"].items():
        share = f"{taken / total:.1%} of the stages" if stage in seconds else ""
        bench.add(f"one process: {stage}", f"{found['megabytes'] / taken:,.1f} MB/s", share or f"{taken:.2f} s")
    bench.add(
        "one process: all stages", f"{found['megabytes'] / total:.2f} MB/s", "without Beam, start and certificate"
    )


OUTSIDE = ("plan", "certify the engine", "hash alone")
"""No stages of a block; the hash is a part of writing."""

BENCHES: dict[str, Callable[[Bench], None]] = {
    "start": bench_start,
    "stages": bench_stages,
    "code": lambda bench: bench_rows(bench, "code"),
    "chat": lambda bench: bench_rows(bench, "chat"),
    "agents": lambda bench: bench_rows(bench, "agents"),
}


def show(bench: Bench) -> str:
    """The heading of the table."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    names = ("apache-beam", "pyarrow", "tokenizers", "tiktoken", "transformers")
    libraries = ", ".join(f"{name} {version(name)}" for name in names)
    heading = (
        f"{cores} cores, Python {sys.version.split()[0]}, {libraries}; {bench.workers} workers unless told otherwise"
    )
    table = Table("what", "figure", "beside", title=heading)
    for line in bench.lines:
        table.add_row(*line)
    Console(width=160).print(table)
    return heading


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="10 MB, one run each, no peers; the docs stay as they are")
    parser.add_argument("--peers", action="store_true", help="measure TRL, and torchtune where there is one")
    parser.add_argument("--megabytes", type=float, default=120, help="of code chats")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=BENCHES, default=list(BENCHES))
    parser.add_argument("--chat", type=Path, default=GSM8K if GSM8K.exists() else None, help="JSONL of real chats")
    parser.add_argument("--ranks", action="store_true", help="the tokenizer's rank file in the place of a model folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(
            scratch=Path(scratch),
            tokenizer=RANKS if arguments.ranks else {"path": str(qwen_model_folder())},
            megabytes=10 if arguments.quick else arguments.megabytes,
            repeats=1 if arguments.quick else arguments.repeats,
            peers=arguments.peers and not arguments.quick,
            chat=arguments.chat,
        )
        for name in arguments.only:
            BENCHES[name](bench)
        heading = show(bench)
    if not arguments.quick:
        replace_marked(DOCS, f"{heading}.\n\n{markdown_table(('what', 'figure', 'beside'), bench.lines)}")


if __name__ == "__main__":
    main()
