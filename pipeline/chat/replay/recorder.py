"""What is learnt while a template runs on one row: which questions it asked of the row's values, and the answers."""

from collections import defaultdict
from typing import Any

from pipeline.chat.replay.expressions import Call, Expression, compile_plain


class NotReplayable(Exception):
    """Raised where a template does with the row's values what the list of operations does not have."""


class Recorder:
    """`answers` maps each test to its outcome, in the order in which they were made."""

    def __init__(self) -> None:
        self.answers: dict[Call, Any] = {}
        self._leaves: defaultdict[int, list[Any]] = defaultdict(list)

    def add_leaf(self, leaf: Any, group: int) -> int:
        """Its number in the group."""
        self._leaves[group].append(leaf)
        return len(self._leaves[group]) - 1

    def value(self, expression: Expression) -> Any:
        return compile_plain(expression)(self._leaves)  # type: ignore[arg-type]  # a group is looked up by its number

    def decide(self, op: str, *args: Any) -> Any:
        """The outcome of a test, which from here on is part of the path."""
        test = Call(op, args)
        if test not in self.answers:
            self.answers[test] = self.value(test)
        return self.answers[test]
