"""metrics.jsonl as a resumed run finds it. Of its million lines the last alone are read: steps never fall from one line
to the next."""

import json
import math
import mmap
import os
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path


def drop_lines_after(path: Path, step: int) -> float:
    """Make the file that of a run of `step` steps, and return the seconds that this took.

    Steps that were done after the checkpoint are done again, so their lines go, and one that was cut off goes too.
    """
    kept = next((kept for kept in lines_from_end(path) if step and _step_of(kept[1]) <= step), None)
    if path.exists():
        os.truncate(path, kept[0] if kept else 0)
    return float(json.loads(kept[1])["elapsed"]) if kept else 0.0


def has_validation(path: Path, step: int) -> bool:
    """Whether the file has one after `step` steps."""
    ahead = takewhile(lambda line: _step_of(line) >= step, (line for _, line in lines_from_end(path)))
    return any(line["event"] == "validation" and line["step"] == step for line in map(json.loads, ahead))


def lines_from_end(path: Path) -> Iterator[tuple[int, bytes]]:
    """(where it ends, in bytes; the line with its end of line), the last line first."""
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        end = len(content)
        while end:
            start = content.rfind(b"\n", 0, end - 1) + 1
            yield end, content[start:end]
            end = start


def _step_of(line: bytes) -> float:
    """Infinite for a line that was cut off."""
    try:
        return int(json.loads(line)["step"]) if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf
