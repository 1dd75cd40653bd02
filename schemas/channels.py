"""The channel byte: what a token is. Whether it is trained is a matter of the loss policy.

bits 0-2  role
bits 3-5  part
bit  6    the token belongs to the conversation's last assistant message
bit  7    never trained
"""

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Role(IntEnum):
    NONE = 0
    SYSTEM = 1
    USER = 2
    ASSISTANT = 3
    TOOL = 4
    TEXT = 5  # a plain document, no conversation


class Part(IntEnum):
    TEMPLATE = 0  # BOS, headers, separators, prompts
    BODY = 1
    REASONING = 2
    TOOL_CALL = 3
    END = 4  # the token that ends the turn, of any role
    MARKUP = 5  # other template text that the model itself must write


LAST_TURN = 0x40
NO_LOSS = 0x80


class Channel(NamedTuple):
    role: Role
    part: Part
    last_turn: bool
    no_loss: bool


def pack_channel(role: Role, part: Part, *, last_turn: bool = False, no_loss: bool = False) -> int:
    return role | part << 3 | LAST_TURN * last_turn | NO_LOSS * no_loss


def unpack_channel(byte: int) -> Channel:
    """The fields of a channel byte. Raises ValueError for a byte with an unknown role or part."""
    return Channel(Role(byte & 7), Part(byte >> 3 & 7), bool(byte & LAST_TURN), bool(byte & NO_LOSS))


def _is_legal(byte: int) -> bool:
    role, part = byte & 7, byte >> 3 & 7
    if role > max(Role) or part > max(Part):
        return False
    return role == Role.ASSISTANT or not byte & LAST_TURN


LEGAL: npt.NDArray[np.bool_] = np.array([_is_legal(byte) for byte in range(256)])
"""bool[256]: the bytes that a shard may hold. Only an assistant's token can be of the last turn."""
