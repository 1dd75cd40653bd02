"""The table of tokenizers in docs/templates.md is what comparing them gives."""

from pathlib import Path

import pytest
from model_folders import MissingPackage
from synthetic_tokenizers import KINDS
from tokenizer_table import NOTES, Comparison, comparisons, table

DOCUMENT = Path(__file__).parents[1] / "docs/templates.md"


@pytest.fixture(scope="module")
def compared() -> tuple[Comparison, ...]:
    try:
        return comparisons()
    except MissingPackage as missing:
        pytest.skip(str(missing))


def test_the_document_has_the_table(compared: tuple[Comparison, ...]) -> None:
    made = table()
    assert made in DOCUMENT.read_text("utf-8"), "run: python tests/support/tokenizer_table.py"
    rows = [line.split(" | ") for line in made.splitlines() if " equal" in line]
    assert len(rows) == len(compared) == 25
    counts = [int(cell.split(" equal")[0].strip("| ")) for row in rows for cell in row if " equal" in cell]
    assert sum(counts) > 12_000
    assert [row[0].strip("| ") for row in rows if any(" not" in cell for cell in row)] == list(NOTES)


def test_where_tokenizers_is_not_literal_we_are(compared: tuple[Comparison, ...]) -> None:
    """The differences that the table names."""
    tried = 0
    for comparison in compared:
        if comparison.tokenizer in NOTES:
            controls = {token.id for token in comparison.encoder.added_tokens if token.special}
            assert comparison.literal is not None
            for text in comparison.differences("literal", comparison.texts()) or []:
                assert controls & set(comparison.literal(text))
                assert not controls & set(comparison.encoder.encode(text, []).ids.tolist())
                tried += 1
    assert tried > 20


def test_real_rows(compared: tuple[Comparison, ...], shared_data: Path) -> None:
    """Some of the real rows, as lines of text, in every tokenizer that is not made up."""
    lines = [
        line
        for name, step in {"gsm8k.jsonl": 300, "c4_demo.jsonl": 15, "glaive_toolcall_en_demo.json": 300}.items()
        for line in (shared_data / name).read_text("utf-8").splitlines()[::step]
    ]
    assert len(lines) > 70
    real = [comparison for comparison in compared if comparison.tokenizer not in KINDS]
    assert len(real) == 16
    for comparison in real:
        for way in ("literal", "parsed", "document"):
            assert not comparison.differences(way, lines), (comparison.tokenizer, comparison.oracle, way)
