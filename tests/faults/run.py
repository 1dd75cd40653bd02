"""`python tests/faults/run.py --schedules 200 --seed 0`: builds while faults happen, and what became of each.

`--report FILE` writes the table into that document, between its marks; `--only N` runs schedule N alone."""

import argparse
import contextlib
import logging
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT)]

from harness import Harness, Verdict
from s3_world import started_s3_world
from schedules import make_schedule
from worlds import DiskWorld, WrapperWorld


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="*")
    parser.add_argument("--keep", type=Path, help="a folder for what is built; that of a lost data set stays there")
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    logging.disable(logging.CRITICAL)
    numbers = args.only or range(args.schedules)
    verdicts = []
    with contextlib.ExitStack() as stack:
        folder = args.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        s3 = stack.enter_context(started_s3_world())
        harness = Harness([DiskWorld(), WrapperWorld(), s3], folder.resolve())
        began = time.monotonic()
        for number in numbers:
            verdict = harness.run(make_schedule(args.seed, number))
            verdicts.append(verdict)
            print(told(verdict), flush=True)
        print(f"{time.monotonic() - began:.0f} s")
    return 1 if any(verdict.problems for verdict in verdicts) else 0


def told(verdict: Verdict) -> str:
    """A line for each schedule, and more where it ended badly."""
    schedule = verdict.schedule
    codes = ", ".join(str(ended.code) for ended in verdict.ended)
    struck = "; ".join(sorted(verdict.struck)) or "nothing"
    line = f"{schedule.name} {schedule.store} x{schedule.workers} [{codes}] {verdict.seconds:.1f} s: {struck}"
    return "\n  LOST ".join([line, *verdict.problems, *([repr(schedule)] if verdict.problems else [])])


if __name__ == "__main__":
    sys.exit(main())
