"""The tables of docs/templates.md that say what was compared and what differs: `python tests/support/template_table.py`
writes them anew. A difference that no reason is known for is an error."""

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2])]

from families import FAMILIES, MISTRAL
from template_cells import Cell, Difference, Oracle, Outcome, cells, compare

DOCUMENT = Path(__file__).parents[2] / "docs" / "templates.md"
BEGIN, END = "<!-- made by tests/support/template_table.py: {} -->\n", "<!-- end of {} -->\n"


class Known(NamedTuple):
    """Why differences of this form are there; `families` are all, or those whose names begin so."""

    oracle: Oracle
    texts: tuple[str | None, ...]
    reason: str
    families: tuple[str, ...] = ("",)
    is_extra: bool = False


_FORCED = "the prompt forces a thought where the row's turn has none, or one of its own"
KNOWN = (
    Known("reject", ("drops the reasoning of the last answer",), "the template has no place for reasoning there"),
    Known("reject", ("drops tool_calls[0]",), "the template has no place for calls, or none beside content"),
    Known("reject", ("drops tool_calls[1]",), "the template prints the first call only"),
    Known("reject", ("drops text",), "the template drops the content beside a call"),
    Known("reject", ("emits nothing",), "an empty answer, of which the template prints nothing", ("nemotron_3",)),
    Known("reject", ("emits nothing",), "calls before the last user message are left out", ("mistral_v2",)),
    Known("prompt", ("<think>\n", "\n", "\n</think>\n\n", "<think>\n\n</think>\n\n"), _FORCED, is_extra=True),
    Known(
        "prompt",
        ("<\uff5cAssistant\uff5c><think>\n",),
        "the template opens no turn for an answer after a second call's result",
        ("deepseekv3",),
        is_extra=True,
    ),
    Known(
        "prompt",
        ("<turn|>\n",),
        "the content beside a call is printed after the call's result",
        ("diffusion_gemma", "gemma4_v5"),
        is_extra=True,
    ),
    Known("prompt", (None,), "analysis is dropped once a final answer follows", ("gptoss",), is_extra=True),
    Known("prompt", (None,), "tags of thought go from turns before the last question", ("qwen3_",), is_extra=True),
    Known("prompt", (None,), "the tools stand before the last question, and move", ("mistral",), is_extra=True),
    Known("twin", ("\n",), "the twin trains the line end after the header or after the end token"),
    Known("twin", ("<|start|>assistant", "<\uff5cAssistant\uff5c>"), "the twin trains the header"),
    Known("twin", ("<think>\n", "<think>", "<think>\n\n</think>\n\n"), "the twin trains what the prompt forces"),
    Known("twin", ("<|endoftext|>",), "the twin trains a second EOS, after the end token", ("phi3",)),
    Known("twin", ("ANSWER",), "content beside a call, printed after its result, outside the turn", ("diffusion_",)),
    Known(
        "twin",
        ("<|tool_response>",),
        "the twin leaves out the token at which generation stops after a call",
        ("diffusion_gemma",),
        is_extra=True,
    ),
    Known(
        "twin",
        ("<|turn>model\n",),
        "after a call's result the served prompt opens no turn, but the rendering does",
        ("diffusion_gemma",),
        is_extra=True,
    ),
)

Outcomes = Mapping[Cell, Outcome]


def compare_all() -> dict[Cell, Outcome]:
    return {cell: compare(cell) for cell in cells()}


def reason_of(difference: Difference) -> Known:
    """Raises LookupError for a difference that is not known."""
    for known in KNOWN:
        text = difference.missing if difference.missing else difference.extra
        is_extra = not difference.missing
        begins = any(difference.family.startswith(family) for family in known.families)
        if difference.oracle == known.oracle and is_extra == known.is_extra and text in known.texts and begins:
            return known
    raise LookupError(f"no reason is known for {difference}")


def family_table(outcomes: Outcomes) -> str:
    """A row a family."""
    lines = [
        "| family | cells | refused | rejected | text and ids | prompts | twin | tools | reasoning | history | "
        "straddling | terminated |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for family in FAMILIES:
        lines.append(_family_row(family, {cell: each for cell, each in outcomes.items() if cell.family == family}))
    return "\n".join([*lines, _total_row(outcomes)]) + "\n"


def _family_row(family: str, outcomes: Outcomes) -> str:
    origin = f"{family} (mistral-common)" if family in MISTRAL else family
    return _row(origin, outcomes.values(), _tools(outcomes), _reasoning(outcomes), _history(outcomes))


def _total_row(outcomes: Outcomes) -> str:
    return _row("all", outcomes.values(), "", "", "")


def _row(name: str, outcomes: Iterable[Outcome], tools: str, reasoning: str, history: str) -> str:
    done = list(outcomes)
    compared = [each for each in done if not (each.refused or each.rejected)]
    twins = [each for each in compared if each.twin]
    columns = [
        name,
        len(done),
        sum(each.refused for each in done),
        sum(each.rejected for each in done),
        f"{sum(each.text and each.ids for each in compared)} of {len(compared)}",
        f"{sum(each.prompts_equal for each in compared)} of {sum(each.prompts for each in compared)}",
        f"{sum(each.twin_equal for each in twins)} of {len(twins)}" if twins else "none",
        *(tools, reasoning, history),
        sum(each.straddling for each in compared),
        f"{sum(each.terminated for each in compared)} of {sum(each.turns for each in compared)}",
    ]
    return "| " + " | ".join(map(str, columns)) + " |"


def _compared_kinds(outcomes: Outcomes) -> set[str]:
    return {cell.kind for cell, each in outcomes.items() if not (each.refused or each.rejected)}


def _tools(outcomes: Outcomes) -> str:
    kinds = _compared_kinds(outcomes)
    if "tools" not in kinds:
        return "no"
    return "yes" if "two calls" in kinds else "one call a turn"


def _reasoning(outcomes: Outcomes) -> str:
    kinds = _compared_kinds(outcomes)
    if "reasoning" in kinds:
        return "yes"
    return "with calls" if "reasoning and tools" in kinds else "no"


def _history(outcomes: Outcomes) -> str:
    """Whether a later message changes how an earlier one is printed."""
    drops = any(each.dropped for each in outcomes.values())
    rewrites = any(
        item.oracle == "prompt" and item.extra is None for each in outcomes.values() for item in each.differences
    )
    return " and ".join(["reasoning dropped"] * drops + ["rewritten"] * rewrites) or "kept"


def difference_table(outcomes: Outcomes, oracle: Oracle) -> str:
    """A row for each form of difference, with the kinds of chats of each family that show it."""
    found: dict[tuple[Known, str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for cell, outcome in outcomes.items():
        for difference in outcome.differences:
            if difference.oracle == oracle:
                known = reason_of(difference)
                found[known, _shown(difference)][cell.family].add(cell.kind)
    rows = [
        f"| {shown} | {known.reason} | {_places(places)} |"
        for (known, shown), places in sorted(found.items(), key=lambda item: (KNOWN.index(item[0][0]), item[0][1]))
    ]
    return "\n".join(["| difference | reason | families: kinds of chats |", "|---|---|---|", *rows]) + "\n"


def _shown(difference: Difference) -> str:
    if difference.oracle == "reject":
        return difference.missing
    if difference.extra is None:
        return "differs before the header"
    word, text = ("missing", difference.missing) if difference.missing else ("extra", difference.extra)
    return f"{word} `{text!r}`".replace("|", "\\|").replace("\uff5c", "&#xff5c;")


def _places(places: Mapping[str, set[str]]) -> str:
    """Families with the same kinds stand together."""
    families: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for family, kinds in places.items():
        families[tuple(sorted(kinds))].append(family)
    return "; ".join(f"{', '.join(names)}: {', '.join(kinds)}" for kinds, names in families.items())


def unused(outcomes: Outcomes) -> list[Known]:
    """The known differences that no longer hold."""
    used = {reason_of(difference) for outcome in outcomes.values() for difference in outcome.differences}
    return [known for known in KNOWN if known not in used]


def tables(outcomes: Outcomes) -> dict[str, str]:
    return {
        "families": family_table(outcomes),
        "prompts": difference_table(outcomes, "prompt"),
        "twins": difference_table(outcomes, "twin"),
        "rejects": difference_table(outcomes, "reject"),
    }


def with_tables(document: str, made: Mapping[str, str]) -> str:
    """The document with these tables in the place of its own."""
    for name, table in made.items():
        begin, end = BEGIN.format(name), END.format(name)
        head, _, rest = document.partition(begin)
        _, _, tail = rest.partition(end)
        document = head + begin + table + end + tail
    return document


if __name__ == "__main__":
    made = tables(compare_all())
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text("utf-8"), made), "utf-8")
