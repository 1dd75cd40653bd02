"""The most memory that a worker takes, at the default size of blocks, for inputs small and large, and for identifiers
that never come twice.

    python tests/benchmarks/memory.py [--gigabytes 0.1 1 4] [--words 1] [--tokenizer FOLDER]

An input is written into a temporary folder (TMPDIR), built with two workers, and removed: 4 GB take minutes, and twice
as much room as they have.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from measure import RANKS, build
from rows import write_rows

LIMIT = 1.5 * 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gigabytes", type=float, nargs="*", default=[0.1, 1, 4], help="of code")
    parser.add_argument("--words", type=float, nargs="*", default=[1], help="gigabytes of identifiers")
    parser.add_argument("--tokenizer", help="a model folder; the rank file of Qwen 2.5 otherwise")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    tokenizer = {"path": arguments.tokenizer} if arguments.tokenizer else RANKS
    inputs = [("endless", size) for size in arguments.gigabytes] + [("words", size) for size in arguments.words]
    largest = 0
    for kind, gigabytes in inputs:
        with tempfile.TemporaryDirectory() as scratch:
            rows = Path(scratch) / "rows.jsonl"
            write_rows(kind, rows, gigabytes * 1000)
            made = build(rows, Path(scratch), arguments.workers, tokenizer=tokenizer)
            told = f"{made.memory / 2**20:,.0f} MiB a worker, work {made.work_rate:.2f} MB/s, {made.fill:.2%} full"
            print(f"{kind}, {rows.stat().st_size / 1e9:.2f} GB: {told}", flush=True)
            largest = max(largest, made.memory)
    sys.exit(f"more than {LIMIT / 2**30} GiB" if largest > LIMIT else 0)


if __name__ == "__main__":
    main()
