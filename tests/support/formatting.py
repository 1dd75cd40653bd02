"""What a formatter makes of a conversation, a refusal included, and whether two such results are one."""

import numpy as np

from pipeline.chat.formatter import ChatFormatter, Tokens
from schemas.conversation import Conversation
from schemas.rejects import RejectRow


def format_or_reject(formatter: ChatFormatter, conversation: Conversation) -> Tokens | str:
    try:
        return formatter.format(conversation)
    except RejectRow as reject:
        return str(reject)


def assert_same_format(one: Tokens | str, other: Tokens | str) -> None:
    if isinstance(one, str) or isinstance(other, str):
        assert one == other
        return
    for field in ("input_ids", "channel"):
        assert np.array_equal(getattr(one, field), getattr(other, field))
    assert one.turns == other.turns
