"""What `packline certify` prints: counts, and the first differences with their tokens, side by side."""

from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from pipeline.certify.compare import Comparison
from pipeline.certify.dataset import Report
from pipeline.recipe import load_tools
from pipeline.show import token_texts

AROUND = 8
"""Tokens shown before the first that differs, and after."""


def print_report(report: Report, console: Console) -> None:
    certificate = report.certificate
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("compared with", f"{certificate.shown_versions} ({certificate.level})")
    for name, count in {
        "rows": report.rows,
        "rejected": report.rejects,
        "compared": certificate.compared,
        "  equal": certificate.passed,
        "  different": certificate.differences,
        "  with control text": certificate.with_control_text,
        "not comparable": certificate.not_comparable,
        "other ids in the shards": report.other_ids,
    }.items():
        table.add_row(name, f"{count:,}")
    console.print(table)
    for sample, seen in report.differences:
        url = report.urls[sample.source]
        console.print(Rule(f"{url} at {sample.position}", align="left", style="bright_black"))
        console.print(_side_by_side(seen, report))
    for source, position in report.other_places:
        line = f"other ids in the shards: {report.urls[source]} at {position}"
        console.print(line, markup=False, highlight=False)


def _side_by_side(seen: Comparison, report: Report) -> Table:
    """The tokens of both sides around the first that differs."""
    at = seen.index or 0
    span = slice(max(0, at - AROUND), at + AROUND)
    sides = [side[span] for side in (seen.found, seen.expected)]
    texts = [_texts(side, report) for side in sides]
    table = Table("", "here", "", report.certificate.oracle, "", box=None, pad_edge=False)
    for number in range(max(map(len, sides))):
        cells = [cell for side, text in zip(sides, texts, strict=True) for cell in _cells(side, text, number)]
        style = "red" if span.start + number >= at else ""
        table.add_row(str(span.start + number), *cells, style=style)
    return table


def _texts(side: list[int], report: Report) -> list[str]:
    if report.certificate.level == "text":
        return [ascii(chr(code)) for code in side]
    return [repr(text) for text in token_texts(side, load_tools(report.recipe).tokenizer.encoder)]


def _cells(side: list[int], texts: list[str], number: int) -> tuple[Text, Text]:
    return (Text(str(side[number])), Text(texts[number])) if number < len(side) else (Text(), Text())
