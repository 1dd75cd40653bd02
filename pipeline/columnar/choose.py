"""The sheet of every row: its shape, and what the template's tests say of its texts, choose it."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt

from pipeline.chat.formatter import ChatFormatter
from pipeline.chat.replay.expressions import Leaf
from pipeline.chat.replay.tree import Program, Tree
from pipeline.columnar.compile import compile_sheet
from pipeline.columnar.programs import Rows, find_programs
from pipeline.columnar.sheet import Sheet
from pipeline.convert.plain import PlainRows, Shape
from schemas.conversation import Conversation
from schemas.rejects import RejectRow

LESSONS = 16
"""Rows of a shape in a block from which is learnt, at most; the others without a sheet are left to the reference."""
WORTH_A_LESSON = 8
"""Rows without a sheet: so many of one shape in a block are worth a lesson, which costs about as much as three."""
MOST_TRIED = 8
"""Rows of which a sheet is tried to be made before their programs are given up."""
NO_SHEET = -1

Programs = tuple[Program, ...]


class SheetChooser:
    """Learns as blocks come. What it has learnt decides how fast a row is written, never what."""

    def __init__(self, formatter: ChatFormatter) -> None:
        self._formatter = formatter
        self._sheets: dict[Shape, dict[Programs, Sheet | None]] = {}  # None where programs give no sheet
        self._lock = threading.Lock()

    def choose(self, rows: PlainRows) -> tuple[list[Sheet], npt.NDArray[np.int64]]:
        """Sheets, and the one of each row by its number; NO_SHEET for rows that the reference must write."""
        sheets: list[Sheet] = []
        chosen = np.full(len(rows), NO_SHEET, np.int64)
        with self._lock:  # threads of a worker share what is learnt
            for number, shape in enumerate(rows.shapes):
                members = np.flatnonzero(rows.shape == number)
                for some, sheet in self._choose_of_shape(rows, shape, members) if shape else ():
                    chosen[some] = len(sheets)
                    sheets.append(sheet)
        return sheets, chosen

    def _choose_of_shape(self, rows: PlainRows, shape: Shape, members: Rows) -> Iterator[tuple[Rows, Sheet]]:
        if shape not in self._sheets and len(members) < WORTH_A_LESSON:
            return
        known = self._sheets.setdefault(shape, {})
        left = LESSONS
        while len(members):
            unknown: list[Rows] = []
            for some, programs in find_programs(self._trees(rows, members[0]), members, partial(_column, rows)):
                if None in programs:
                    unknown.append(some)
                elif sheet := self._sheet(known, rows, some, programs):  # type: ignore[arg-type]
                    yield some, sheet
            worth = [some for some in unknown if len(some) >= WORTH_A_LESSON][:left]
            asked, members = len(members), np.concatenate([members[:0], *worth])
            if len(members) == asked and left < LESSONS:  # the last lessons taught nothing
                return
            left -= len(worth)
            for some in worth:
                self._teach(rows, int(some[0]))

    def _trees(self, rows: PlainRows, row: int) -> list[Tree]:
        """Of the whole rendering and of the prompts of its answers; an empty one where nothing is known."""
        tree = self._formatter.replaying.tree
        renderings = _renderings(_conversation(rows, int(row)))
        return [tree(beginning, add_generation_prompt=prompt) or Tree() for beginning, prompt in renderings]

    def _teach(self, rows: PlainRows, row: int) -> None:
        try:
            for beginning, prompt in _renderings(_conversation(rows, row)):
                self._formatter.replaying.teach(beginning, add_generation_prompt=prompt)
        except RejectRow:  # such rows stay without a program
            return

    def _sheet(
        self, known: dict[Programs, Sheet | None], rows: PlainRows, members: Rows, programs: Programs
    ) -> Sheet | None:
        """Made of the first row that will do: one with a text that the template takes off to nothing will not."""
        if programs not in known:
            tried = (self._compile(_conversation(rows, int(row)), programs) for row in members[:MOST_TRIED])
            sheet = next((sheet for sheet in tried if sheet), None)
            if sheet is None and len(members) < MOST_TRIED:
                return None
            known[programs] = sheet
        return known[programs]

    def _compile(self, conversation: Conversation, programs: Programs) -> Sheet | None:
        try:
            return compile_sheet(self._formatter, conversation, programs[0], programs[1:])
        except RejectRow:  # the reference will say why
            return None


def _conversation(rows: PlainRows, row: int) -> Conversation:
    document = rows.document(row)
    assert isinstance(document, Conversation)
    return document


def _renderings(conversation: Conversation) -> Iterator[tuple[Conversation, bool]]:
    """The whole, and the prompts of its answers, each with whether it has the generation prompt."""
    yield conversation, False
    messages = conversation.messages
    for index, message in enumerate(messages):
        if message.role == "assistant":
            yield replace(conversation, messages=messages[:index]), True


def _column(rows: PlainRows, leaf: Leaf, members: Rows) -> list[str]:
    """The texts of one message of these rows."""
    assert leaf.number == 0, "a plain message is its text alone"
    return [rows.texts[text].decode() for text in (rows.first[members] + leaf.group).tolist()]
