"""`python tests/faults/run.py --schedules 200 --seed 0`: builds while faults happen, and what became of each; the table
goes into docs/reliability.md. `--suite` is what the tests run: every kind of fault once, and broken builds."""

import argparse
import contextlib
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

from harness import Harness
from report import make_table, write_table
from s3_world import started_s3_world
from schedules import KINDS, make_schedule
from sources import ROOT
from suite import BROKEN, every_kind
from trial import Verdict
from worlds import DiskWorld, WrapperWorld

from schemas.retry import VARIABLE as PATIENCE


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=200, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="*", metavar="N", help="these schedules alone; writes no table")
    parser.add_argument("--keep", type=Path, help="a folder for what is built; that of a lost data set stays there")
    parser.add_argument("--report", type=Path, default=ROOT / "docs" / "reliability.md")
    parser.add_argument("--suite", type=Path, metavar="FILE", help="run what the tests run; JSON of it to FILE")
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    logging.disable(logging.CRITICAL)
    began = time.monotonic()
    with started_harness(args.keep) as harness:
        if args.suite:
            args.suite.write_text(json.dumps(run_suite(harness)))
            return 0
        verdicts = []
        for number in args.only or range(args.schedules):
            verdicts.append(harness.run(make_schedule(args.seed, number)))
            print(told(verdicts[-1]), flush=True)
    if not args.only:
        write_table(args.report, make_table(verdicts, args.seed))
    lost = sum(bool(verdict.problems) for verdict in verdicts)
    print(f"{len(verdicts)} schedules in {time.monotonic() - began:.0f} s, data sets lost: {lost}")
    return 1 if lost else 0


@contextlib.contextmanager
def started_harness(keep: Path | None) -> Iterator[Harness]:
    with contextlib.ExitStack() as stack:
        folder = (keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[PATIENCE] = "2"  # seconds; a user's build asks a store again for longer
        s3 = stack.enter_context(started_s3_world(folder / "profiles.yaml"))
        yield Harness([DiskWorld(), WrapperWorld(), s3], folder)


def run_suite(harness: Harness) -> dict[str, object]:
    verdicts = [harness.run(schedule) for schedule in every_kind()]
    broken = {
        name: {"finds": broken.finds, "problems": harness.run(broken.schedule, broken.break_it).problems}
        for name, broken in BROKEN.items()
    }
    return {
        "kinds": list(KINDS),
        "struck": sorted({kind for verdict in verdicts for kind in verdict.struck}),
        "lost": [told(verdict) for verdict in verdicts if verdict.problems],
        "told": [told(verdict) for verdict in verdicts],
        "broken": broken,
    }


def told(verdict: Verdict) -> str:
    """A line for each schedule, and more where it ended badly."""
    schedule = verdict.schedule
    codes = ", ".join(f"{ended.code} {ended.seconds:.1f} s" for ended in verdict.ended)
    struck = "; ".join(sorted(verdict.struck)) or "nothing"
    line = f"{schedule.name} {schedule.store} x{schedule.workers} [{codes}] {verdict.seconds:.1f} s: {struck}"
    return "\n  LOST ".join([line, *verdict.problems, *([repr(schedule)] if verdict.problems else [])])


if __name__ == "__main__":
    sys.exit(main())
