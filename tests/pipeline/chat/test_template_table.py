"""Every family against transformers and TRL's twins; docs/templates.md says what was compared and what differs."""

import pytest
from template_cells import Cell, Outcome
from template_table import DOCUMENT, compare_all, tables, unused, with_tables


@pytest.fixture(scope="module")
def outcomes(trl_templates: object) -> dict[Cell, Outcome]:
    pytest.importorskip("mistral_common")
    return compare_all()


def compared(outcomes: dict[Cell, Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes.values() if not (outcome.refused or outcome.rejected)]


def test_text_and_ids_are_those_of_transformers(outcomes: dict[Cell, Outcome]) -> None:
    different = [cell for cell, each in outcomes.items() if each in compared(outcomes) and not (each.text and each.ids)]
    assert not different
    assert len(compared(outcomes)) > 2800


def test_every_turn_ends_in_an_end_token(outcomes: dict[Cell, Outcome]) -> None:
    assert all(outcome.terminated == outcome.turns for outcome in outcomes.values())
    assert sum(outcome.turns for outcome in outcomes.values()) > 5000


def test_the_oracles_were_asked(outcomes: dict[Cell, Outcome]) -> None:
    """compare() itself asserts that each region begins where the served prompt ends, wherever that is a prefix."""
    prompts = sum(outcome.prompts for outcome in outcomes.values())
    assert prompts > 5000
    assert sum(outcome.prompts_equal for outcome in outcomes.values()) > prompts * 0.8
    assert sum(outcome.twin for outcome in outcomes.values()) > 1400


def test_every_difference_is_known_and_every_known_one_is_there(outcomes: dict[Cell, Outcome]) -> None:
    assert not unused(outcomes)
    document = DOCUMENT.read_text("utf-8")
    assert with_tables(document, tables(outcomes)) == document, "run: python tests/support/template_table.py"
