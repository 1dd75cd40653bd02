"""Tables that a benchmark writes into the docs."""

from collections.abc import Iterable, Sequence
from pathlib import Path

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


def markdown_table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def replace_marked(path: Path, text: str) -> None:
    """Put the text between the marks of a document, which has them once."""
    before, _, rest = path.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    assert end, f"{path} has no {BEGIN} ... {END}"
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", "utf-8")
