"""Tokens a second, MFU and memory of the trainer's step on one GPU, against transformers: `make bench-gpu`.

Each case is a process of its own, whose result is a file in the folder OUT as soon as it is there: what is there
already is not measured again, so a run that was cut off goes on. Remove a file to measure its case anew.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu.cases import Case, choose_cases
from gpu.table import lines_of, parts_table, speed_table

MOST_HALVINGS = 3
LEAST_SECONDS = 30
"""With less than this left no further process is started."""


class OutOfTime(Exception):
    pass


def measure(case: Case, out: Path, deadline: float, options: Sequence[str]) -> dict[str, Any]:
    """Both sides in one process, or else in one each. Raises OutOfTime."""
    sides = ["ours"] if case.beside is None else ["ours", "theirs"]
    result = attempt(case, sides, out, deadline, options)
    if result["status"] == "ok":
        return {"case": case.name, "together": len(sides) > 1, "failures": [], **result}
    alone = [attempt(case, [side], out, deadline, options) for side in sides] if len(sides) > 1 else [result]
    facts: dict[str, Any] = {"case": case.name, "together": False, "sides": [], "failures": []}
    for side, own in zip(sides, alone, strict=True):
        facts["sides"] += own.pop("sides", [])
        if own["status"] != "ok":
            facts["failures"].append({"side": side, "status": own["status"], "error": own.get("error", "")})
        facts |= {name: own[name] for name in ("device", "torch") if name in own}
    return facts


def attempt(case: Case, sides: Sequence[str], out: Path, deadline: float, options: Sequence[str]) -> dict[str, Any]:
    """With fewer packs a micro-batch where the memory is too small."""
    for shrink in range(MOST_HALVINGS + 1):
        result = run_process(case, sides, out, deadline, [*options, "--shrink", str(shrink)])
        if result["status"] != "out of memory":
            break
    return result


def run_process(case: Case, sides: Sequence[str], out: Path, deadline: float, options: Sequence[str]) -> dict[str, Any]:
    left = deadline - time.monotonic()
    if left < LEAST_SECONDS:
        raise OutOfTime
    file = out / ".result.json"
    file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "gpu.one", case.name, str(file), "--sides", *sides, *options]
    try:
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=left)
    except subprocess.TimeoutExpired:
        raise OutOfTime from None
    if not file.exists():
        return {"status": "failed", "error": f"exit code {done.returncode}: {done.stderr[-3000:]}"}
    result: dict[str, Any] = json.loads(file.read_text("utf-8"))
    file.unlink()
    return result


def file_of(case: Case, out: Path) -> Path:
    return out / f"{case.name.replace('/', '-')}.json"


def measure_all(cases: Sequence[Case], out: Path, time_limit: float, options: Sequence[str]) -> None:
    deadline = time.monotonic() + time_limit
    for case in cases:
        if file_of(case, out).exists():
            continue
        try:
            result = measure(case, out, deadline, options)
        except OutOfTime:
            print(f"{case.name}: no time is left for it; run this again to go on", flush=True)
            return
        file_of(case, out).write_text(json.dumps(result) + "\n", "utf-8")
        for line in lines_of(result):
            print(" | ".join(line), flush=True)
        for failure in result["failures"]:
            print(failure["error"], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("out/bench-gpu"))
    parser.add_argument("--cases", default="", help="a regular expression, as in llama-1b/4096")
    parser.add_argument("--time-limit", type=float, default=86_400, help="seconds for all")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="small models and packs, to try the benchmark on a CPU")
    arguments = parser.parse_args()
    cases = choose_cases(arguments.cases)
    if not cases:
        sys.exit(f"no case is named like {arguments.cases!r}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    options = ["--steps", str(arguments.steps), "--warm-up", str(arguments.warm_up), *["--tiny"] * arguments.tiny]
    measure_all(cases, arguments.out, arguments.time_limit, options)
    results = [
        json.loads(file_of(case, arguments.out).read_text("utf-8"))
        for case in cases
        if file_of(case, arguments.out).exists()
    ]
    print(f"\n{speed_table(results)}\n\n{parts_table(results)}")


if __name__ == "__main__":
    main()
