"""Errors that cross from a worker to the launching process.

Runners carry an exception as text alone, wrapped in their own traceback; a failure marks its message in that text
so that the user can be shown it and nothing else.
"""

import json
import re
from typing import Literal

Kind = Literal["budget", "engine", "input", "bug"]

_MARK = re.compile(r"packline-failure:(\{.*?\}):end", re.DOTALL)


class BudgetExceeded(ValueError):
    """More rows were rejected than `max_reject_fraction` allows, or fewer turns end in an end token than
    `min_terminated` asks for. Nothing is published."""


class EnginesDiffer(ValueError):
    """The fast engine made other ids of a text than the reference library. Nothing is published."""


class BlockFailure(RuntimeError):
    """`kind`: a budget, a fast engine that is wrong, the user's input, or a defect of ours. `message` is for the
    user."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(f"packline-failure:{json.dumps({'kind': kind, 'message': message})}:end")
        self.kind = kind
        self.message = message

    def __reduce__(self) -> tuple[type["BlockFailure"], tuple[Kind, str]]:
        return BlockFailure, (self.kind, self.message)


class RunnerFailed(RuntimeError):
    """A job failed, or could not be run, and no worker of ours said why."""


def find_failure(text: str) -> BlockFailure | None:
    """The failure marked in a runner's error text. The text may have passed through `repr`."""
    for candidate in (text, text.replace('\\"', '"').replace("\\'", "'").replace("\\\\", "\\")):
        for match in _MARK.finditer(candidate):
            try:
                found = json.loads(match[1])
            except ValueError:
                continue
            return BlockFailure(found["kind"], found["message"])
    return None
