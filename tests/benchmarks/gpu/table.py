"""Results as tables for docs/benchmarks.md."""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from tables import markdown_table

HEADER = ("case", "side", "packs", "tokens/s", "trained/s", "MFU", "peak GiB", "step s", "ratio")


def speed_table(results: Iterable[dict[str, Any]]) -> str:
    return markdown_table(HEADER, [line for result in results for line in lines_of(result)])


def lines_of(result: dict[str, Any]) -> list[Sequence[str]]:
    lines: list[Sequence[str]] = []
    for side in result["sides"]:
        mfu = "" if side["mfu"] is None else f"{side['mfu']:.1%}"
        rates = (f"{side['tokens_per_second']:,.0f}", f"{side['trained_tokens_per_second']:,.0f}")
        seconds = f"{median(side['seconds']):.3f} ({min(side['seconds']):.3f} to {max(side['seconds']):.3f})"
        memory = f"{side['peak_gib']:.1f}"
        told = ratio_of(result) if side["side"] == "ours" else ""
        lines.append((result["case"], side["side"], str(side["rows"]), *rates, mfu, memory, seconds, told))
    lines += [(result["case"], failure["side"], failure["status"], *[""] * 6) for failure in result["failures"]]
    return lines


def ratio_of(result: dict[str, Any]) -> str:
    """Ours to the other, by tokens a second; told apart where they ran one after the other."""
    rates = {side["side"] == "ours": side["tokens_per_second"] for side in result["sides"]}
    if len(rates) < 2:
        return ""
    return f"{rates[True] / rates[False]:.2f}{'' if result['together'] else ', one after the other'}"


def parts_table(results: Iterable[dict[str, Any]]) -> str:
    """The share of each kind of work in the time of one step, in percent."""
    sides = [(result["case"], side) for result in results for side in result["sides"]]
    kinds = list(dict.fromkeys(kind for _, side in sides for kind in side["profile"]["shares"]))
    lines = [
        (case, side["side"], *(f"{100 * side['profile']['shares'].get(kind, 0):.1f}" for kind in kinds))
        for case, side in sides
    ]
    return markdown_table(("case", "side", *kinds), lines)
