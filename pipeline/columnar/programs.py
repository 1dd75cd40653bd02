"""Which programs write the renderings of many rows of one shape: replay's tests, asked of whole columns."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.chat.replay.expressions import PLAIN, Call, Leaf, Text
from pipeline.chat.replay.tree import Branch, Node, Program, Tree

Rows: TypeAlias = npt.NDArray[np.int64]
Column: TypeAlias = Callable[[Leaf, Rows], list[Any]]
"""The values of a leaf in some of the rows."""

Known: TypeAlias = dict[Call, Any]
"""The answers that rows have given so far."""


def find_programs(
    trees: Sequence[Tree], rows: Rows, column: Column
) -> Iterator[tuple[Rows, tuple[Program | None, ...]]]:
    """The rows by the programs of their renderings, one of each tree; None where no row so far answered a tree's tests
    as these rows do."""
    waiting: list[tuple[Rows, Known, tuple[Program | None, ...]]] = [(rows, {}, ())]
    while waiting:
        rows, known, found = waiting.pop()
        if len(found) == len(trees):
            yield rows, found
            continue
        for some, answers, program in _walk(trees[len(found)].start, rows, known, column):
            waiting.append((some, answers, (*found, program)))


def _walk(start: Node | None, rows: Rows, known: Known, column: Column) -> Iterator[tuple[Rows, Known, Program | None]]:
    waiting = [(start, rows, known)]
    while waiting:
        node, rows, known = waiting.pop()
        while isinstance(node, Branch) and node.test in known:
            node = node.outcomes.get(known[node.test])
        if not isinstance(node, Branch):
            yield rows, known, node
            continue
        for outcome, some in _by_answer(node.test, rows, column):
            waiting.append((node.outcomes.get(outcome), some, {**known, node.test: outcome}))


def _by_answer(test: Call, rows: Rows, column: Column) -> Iterator[tuple[Any, Rows]]:
    answers = evaluate(test, rows, column)
    first = answers[0]
    if answers.count(first) == len(answers):
        yield first, rows
        return
    places: dict[Any, list[int]] = {}
    for place, answer in enumerate(answers):
        places.setdefault(answer, []).append(place)
    for answer, some in places.items():
        yield answer, rows[some]


def evaluate(expression: Any, rows: Rows, column: Column) -> list[Any]:
    """The values of an expression of the listed operations, one for each row."""
    if isinstance(expression, Leaf):
        return column(expression, rows)
    if not isinstance(expression, Call):
        constant = expression.text if isinstance(expression, Text) else expression
        return [constant] * len(rows)
    function = PLAIN[expression.op]
    if not expression.args:
        return [function() for _ in range(len(rows))]
    first, *others = expression.args
    if any(isinstance(arg, Leaf | Call | Text) for arg in others):
        columns = [evaluate(arg, rows, column) for arg in expression.args]
        return list(map(function, *columns))
    return [function(value, *others) for value in evaluate(first, rows, column)]
