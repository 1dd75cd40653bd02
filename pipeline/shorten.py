"""A conversation that is too long, without its last turns."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from pipeline.chat.formatter import Tokens
from schemas.conversation import Conversation
from schemas.rejects import RejectRow


def drop_last_turns(
    conversation: Conversation,
    documents: Sequence[Tokens],
    render: Callable[[Conversation], list[Tokens]],
    seq_len: int,
) -> list[Tokens] | None:
    """The longest beginning of a conversation that ends in an answer and whose documents have at most `seq_len` tokens
    each, None where there is none.

    `documents` are those of the whole, too long. A beginning is rendered anew, as a template may look at what comes
    last. It is tried only if its answer begins early enough in the whole: what comes later may make a template hide
    things of earlier messages, such as reasoning, but not write more of them.
    """
    within = {turn.message for tokens in documents for turn in tokens.turns if turn.start < seq_len}
    for message in sorted(within - {len(conversation.messages) - 1}, reverse=True):
        try:
            shorter = render(replace(conversation, messages=conversation.messages[: message + 1]))
        except RejectRow:  # a template may refuse what ends there
            continue
        if max(map(len, shorter)) <= seq_len:
            return shorter
    return None
