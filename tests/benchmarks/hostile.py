"""The most memory that reading takes for files that mean harm: true gigabytes, each file in a process of its own.

    PYTHONPATH=. python tests/benchmarks/hostile.py [FOLDER]

Writes the table of docs/hostile.md. The files take some 2 GB in FOLDER, and are removed.
"""

import gzip
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from pipeline.config import BuildConfig
from pipeline.plan import plan_sources
from pipeline.readers import read_blocks
from schemas.errors import DatasetError

GIGABYTE = 2**30


def long_line(front: bytes, back: bytes) -> Iterator[bytes]:
    yield front
    yield from repeat(b"x" * 2**20, GIGABYTE // 2**20)
    yield back


def write_plain(path: Path, chunks: Iterator[bytes]) -> None:
    with path.open("wb") as file:
        file.writelines(chunks)


def write_gzip(path: Path, chunks: Iterator[bytes]) -> None:
    with gzip.open(path, "wb", 1) as file:
        file.writelines(chunks)


def write_zstd(path: Path, chunks: Iterator[bytes]) -> None:
    with path.open("wb") as raw, zstandard.ZstdCompressor().stream_writer(raw) as file:
        for chunk in chunks:
            file.write(chunk)


def row() -> Iterator[bytes]:
    return long_line(b'{"text": "a"}\n{"text": "', b'"}\n{"text": "a"}\n')


def same_text(rows: int, size: int) -> pa.Table:
    indexes = pa.array([0] * rows, pa.int32())
    return pa.table({"text": pa.DictionaryArray.from_arrays(indexes, pa.array(["x" * size]))})


FILES: dict[str, Callable[[Path], None]] = {
    "line.jsonl": lambda path: write_plain(path, row()),
    "line.jsonl.gz": lambda path: write_gzip(path, row()),
    "line.jsonl.zst": lambda path: write_zstd(path, row()),
    "field.csv": lambda path: write_plain(path, long_line(b'text\na\n"', b"")),
    "brackets.jsonl": lambda path: write_plain(path, iter([b'{"text": [', b"[]," * (2**26 // 3 - 9), b"[]]}\n"])),
    "bomb.jsonl.zst": lambda path: write_zstd(path, repeat(bytes(2**20), 4096)),
    "page.parquet": lambda path: pq.write_table(
        pa.table({"text": ["x" * 10**9]}), path, use_dictionary=False, compression="zstd"
    ),
    "dictionary.parquet": lambda path: pq.write_table(same_text(20_000, 500_000), path, row_group_size=10**7),
}


def peak_memory() -> int:
    """KiB, of this process since it began; Linux alone tells that without what its parent had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def read(path: Path) -> None:
    """Prints what came of the file, and the memory above that of the program itself."""
    source = {"path": str(path), "transform": {"type": "text"}}
    config = BuildConfig.model_validate(
        {"output": "out", "seq_len": 64, "tokenizer": {"path": "none"}, "sources": [source]}
    )
    before, began = peak_memory(), time.perf_counter()
    rows, rejects, end = 0, 0, "read"
    try:
        for unit in plan_sources(config).units:
            for block in read_blocks(unit, config.block_bytes, config.max_line_bytes):
                rows += len(list(block.rows))
                rejects += len(block.rejects)
    except DatasetError:
        end = "refused"
    peak = peak_memory() - before
    seconds = time.perf_counter() - began
    told = f"{end}, {rows} rows, {rejects} rejects"
    print(f"| {path.name} | {path.stat().st_size:,} | {told} | {peak // 1024} | {seconds:.1f} |")


def main(folder: str | None) -> None:
    print("| file | bytes | what came of it | MiB above the program's own | s |\n|---|---|---|---|---|", flush=True)
    for name, write in FILES.items():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            path = Path(scratch, name)
            write(path)
            subprocess.run([sys.executable, __file__, "--read", str(path)], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--read"]:
        read(Path(sys.argv[2]))
    else:
        main(sys.argv[1] if len(sys.argv) > 1 else None)
