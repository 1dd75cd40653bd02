"""What rows have in common before a template looks at their values: roles, which fields there are, and their kinds."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from pipeline.chat.replay.expressions import kind_of
from pipeline.chat.template import MOST_ROWS, Beside, ChatTemplate, MakeLeaf
from pipeline.chat.traced import Origin
from schemas.conversation import Conversation, Message

MOST_GROUPS = 10_000
"""Structures of messages that a process tells apart; a row with another one is not replayed."""
UNKNOWN = -1

Frozen: TypeAlias = Any
"""What the template sees of a message as nested tuples, with kinds in the place of values."""


class Group(NamedTuple):
    """A message, or the row beside its messages: the number of its structure, and its leaves in the order in which
    the template gets them."""

    structure: int
    leaves: tuple[Any, ...]


class View(NamedTuple):
    """What a rendering depends on. `row` numbers the values of the row beside its messages."""

    structure: tuple[int, ...]
    leaves: list[tuple[Any, ...]]
    row: int


class Structures:
    """Numbers the structures of messages as they come. Remembers the last conversation, whose prompts come next.

    Threads may share it: a number is drawn before it is known whether it is needed, and each attribute is read once.
    """

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._numbers: dict[Frozen, int] = {}
        self._last: tuple[Sequence[Message], list[Group]] = ((), [])
        self._rows: dict[Beside, tuple[Group, int]] = {}
        self._counter = itertools.count()

    def view(self, conversation: Conversation, *, add_generation_prompt: bool) -> View:
        """Raises what the template's view of a message raises."""
        messages = conversation.messages
        beside = conversation.tools, conversation.documents, conversation.template_kwargs
        row, number = self._rows.get(beside) or self._add_row(conversation, beside)
        known_messages, known = self._last
        groups = [
            known[index]
            if index < len(known) and known_messages[index] is message
            else self._message_group(message, index)
            for index, message in enumerate(messages)
        ]
        if len(groups) > len(known) or (groups and messages[0] is not known_messages[0]):
            self._last = messages, groups
        groups = [*groups, row]
        structure = (add_generation_prompt, *(group.structure for group in groups))
        return View(structure, [group.leaves for group in groups], number)

    def _add_row(self, conversation: Conversation, beside: Beside) -> tuple[Group, int]:
        row = self._group(partial(self._template.row_view, conversation)), next(self._counter)
        if len(self._rows) >= MOST_ROWS:
            self._rows.clear()
        return self._rows.setdefault(beside, row)

    def _message_group(self, message: Message, index: int) -> Group:
        if message.spans is not None:  # its content is of two origins
            return Group(UNKNOWN, ())
        return self._group(partial(self._template.message_view, message, index))

    def _group(self, view: Callable[[MakeLeaf], dict[str, Any]]) -> Group:
        leaves: list[Any] = []

        def make_leaf(value: Any, origin: Origin) -> Any:
            leaves.append(value)
            return kind_of(value)

        frozen = _freeze(view(make_leaf))
        number = self._numbers.get(frozen)
        if number is None:
            if len(self._numbers) >= MOST_GROUPS:
                return Group(UNKNOWN, ())
            number = self._numbers.setdefault(frozen, next(self._counter))
        return Group(number, tuple(leaves))


def _freeze(view: Any) -> Frozen:
    if isinstance(view, dict):
        return tuple((key, _freeze(value)) for key, value in view.items())
    return tuple(map(_freeze, view)) if isinstance(view, list) else view
