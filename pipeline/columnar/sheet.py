"""A sheet: how the documents of one shape are written, as atoms of text whose channels are known beforehand.

    <|im_start|>  "user\n"  (content of message 0)  <|im_end|>  "\n"  <|im_start|>  "assistant\n"  (content of ...)

An atom is an added token, a constant, or a text of the row. What lies between two added tokens is one **segment**,
which is encoded as a whole.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Change = Callable[[str], str]


class Atom(NamedTuple):
    """`token`: the id of an added token, -1 for text. Text is `constant`, or else text number `text` of the row, after
    `change` where there is one; `avoids` is a byte that it may not begin with, -1 for none. `region` numbers the
    generated regions of the document, -1 outside of them. `is_row`: the text came with the row."""

    channel: int
    region: int = -1
    token: int = -1
    constant: str = ""
    text: int = -1
    change: Change | None = None
    avoids: int = -1
    is_row: bool = False


@dataclass(frozen=True, slots=True)
class SheetTurn:
    """Of a generated region: its message, and whether it begins where the served prompt ends."""

    message: int
    served: bool
    reasoning_dropped: bool = False


@dataclass(frozen=True, slots=True)
class Sheet:
    """`turns` are by the number of the region."""

    atoms: tuple[Atom, ...]
    turns: tuple[SheetTurn, ...]


class SheetTable:
    """The atoms of several sheets end to end, as columns. A atoms, S sheets."""

    def __init__(self, sheets: Sequence[Sheet]) -> None:
        atoms = [atom for sheet in sheets for atom in sheet.atoms]
        constants = {b"": 0}
        self.channel = np.array([atom.channel for atom in atoms], np.uint8)
        self.region = np.array([atom.region for atom in atoms], np.int32)
        self.token = np.array([atom.token for atom in atoms], np.int32)
        self.text = np.array([atom.text for atom in atoms], np.int32)
        self.avoids = np.array([atom.avoids for atom in atoms], np.int16)
        self.is_row = np.array([atom.is_row for atom in atoms], np.bool_)
        self.constant = np.array(
            [constants.setdefault(atom.constant.encode(), len(constants)) for atom in atoms], np.int64
        )
        self.constants = list(constants)
        self.changes = dict(_by_change(atoms))
        self.first = _offsets([len(sheet.atoms) for sheet in sheets])  # int64[S + 1]
        turns = [turn for sheet in sheets for turn in sheet.turns]
        self.turn_message = np.array([turn.message for turn in turns], np.int32)
        self.turn_served = np.array([turn.served for turn in turns], np.bool_)
        self.turn_dropped = np.array([turn.reasoning_dropped for turn in turns], np.bool_)
        self.first_turn = _offsets([len(sheet.turns) for sheet in sheets])


def _offsets(sizes: Sequence[int]) -> npt.NDArray[np.int64]:
    return np.array(list(accumulate(sizes, initial=0)), np.int64)


def _by_change(atoms: Sequence[Atom]) -> Iterator[tuple[Change, npt.NDArray[np.bool_]]]:
    """bool[A] for each change: the atoms that it is made to."""
    for change in {atom.change: None for atom in atoms if atom.change}:
        assert change is not None
        yield change, np.array([atom.change is change for atom in atoms], np.bool_)
