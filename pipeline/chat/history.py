"""`reasoning_history: split`: documents that begin anew only where the template rewrites what the model has written.

Many templates drop the reasoning of earlier turns. The rendering of a whole conversation then holds answers without
it, after prompts that no server sends. Split at those places, each answer stands in a document as it was written,
after the prompt that it was written for.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple


class Piece(NamedTuple):
    """A document of messages[:stop]. What it holds through the last assistant turn before message `first` was trained
    in the pieces before."""

    first: int
    stop: int


def split_history(
    assistants: Sequence[int],
    count: int,
    written: Callable[[int], str],
    prompt: Callable[[int], str | None],
    whole: Callable[[], str],
) -> list[Piece]:
    """The pieces of a conversation of `count` messages.

    `written(i)` is the rendering of messages[:i + 1] through what the model writes of the last; `prompt(i)` is what is
    served before it, None where the template refuses that; `whole` is the rendering of all messages, which the last
    turn may have to be kept apart from where a question or a result follows it.
    """
    pieces = []
    first = 0
    for turn, following in pairwise(assistants):
        before = written(turn)
        later = (prompt(following), written(following))
        if not all(text is None or text.startswith(before) for text in later):
            pieces.append(Piece(first, turn + 1))
            first = turn + 1
    last = max(assistants, default=count - 1)
    if last < count - 1 and not whole().startswith(written(last)):
        pieces.append(Piece(first, last + 1))
        first = last + 1
    return [*pieces, Piece(first, count)]
