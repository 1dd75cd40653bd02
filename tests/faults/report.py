"""The table of docs/reliability.md, from verdicts."""

import re
from collections.abc import Sequence
from pathlib import Path

from schedules import KINDS
from trial import Verdict

_BEGIN, _END = "<!-- the table begins -->", "<!-- the table ends -->"


def make_table(verdicts: Sequence[Verdict], seed: int) -> str:
    """Markdown: a line for each kind of fault, of the schedules in which it really struck, and a sum."""
    head = ("fault", "schedules", "went on by itself", "failed, cause named", "killed", "published", "lost")
    lines = [f"| {' | '.join(head)} |", "|---|" + "--:|" * (len(head) - 1)]
    for kind in KINDS:
        struck = [verdict for verdict in verdicts if kind in verdict.struck]
        lines.append(_line(kind, struck))
    lines.append(_line("none struck: the moment never came", [verdict for verdict in verdicts if not verdict.struck]))
    lines.append(_line(f"**all**, seed {seed}", verdicts))
    return "\n".join(lines)


def _line(kind: str, verdicts: Sequence[Verdict]) -> str:
    """Of builds that were run under faults, one or two a schedule: how each of them ended; then of the data sets."""
    ended = [ended for verdict in verdicts for ended in verdict.ended]
    numbers = (
        len(verdicts),
        sum(build.code == 0 for build in ended),
        sum(build.code in (1, 2) for build in ended),
        sum(build.code is not None and build.code < 0 for build in ended),
        sum(verdict.published for verdict in verdicts),
        sum(bool(verdict.problems) for verdict in verdicts),
    )
    return f"| {kind} | {' | '.join(map(str, numbers))} |"


def write_table(document: Path, table: str) -> None:
    """Between the document's marks."""
    text = document.read_text("utf-8")
    pattern = re.compile(f"{re.escape(_BEGIN)}.*{re.escape(_END)}", re.DOTALL)
    assert pattern.search(text)
    document.write_text(pattern.sub(lambda _: f"{_BEGIN}\n{table}\n{_END}", text), "utf-8")
