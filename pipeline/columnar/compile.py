"""From what a template writes for one row to a sheet for all rows that it treats alike.

The reference lays out one conversation of the shape. Its layout holds for the others wherever it follows from text of
the template alone: the conditions are checked here, and a shape that does not meet them is left to the reference.

1. Each piece is a constant, or the text of one message as a whole (white space taken off its ends at most),
   and no text is left out.
2. Each served prompt is what the rendering begins with, or departs from it within constants, or where it has a
   constant and the rendering a text of the row that begins otherwise.
3. Whether an added token of the template is one, and what it takes in of white space, does not depend on row text
   (see fixed_tokens.py), and what opens a thought stands in constants.

Rows with an empty text, with an added token in their text, or not in the tokenizer's normal form, are not written from
sheets (see documents.py).
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np

from pipeline.chat.control_tokens import template_tokens
from pipeline.chat.formatter import ChatFormatter
from pipeline.chat.layout import DocumentLayout
from pipeline.chat.replay.expressions import Call, Expression, Leaf, Text
from pipeline.chat.replay.symbols import Derived, Piece
from pipeline.chat.replay.tree import Program
from pipeline.columnar.fixed_tokens import are_fixed
from pipeline.columnar.sheet import Atom, Change, Sheet, SheetTurn
from pipeline.encoders.base import TokenSpan
from schemas.conversation import Conversation

_STRIPPING = ("strip", "lstrip", "rstrip")


class _Stretch(NamedTuple):
    """Characters [start, end) of the rendering: constant, or text number `text` of the row, by `expression`."""

    start: int
    end: int
    text: int
    change: Change | None
    expression: Expression | None = None


class _NoSheet(Exception):
    """The layout of one row says nothing about others."""


def compile_sheet(
    formatter: ChatFormatter, conversation: Conversation, whole: Program, prompts: Sequence[Program]
) -> Sheet | None:
    """The sheet of the rows whose renderings these programs write, of which `conversation` is one; None where its
    layout need not be theirs. Its messages have a text each and nothing else, and none of these is empty."""
    try:
        return _compile(formatter, conversation, whole, prompts)
    except _NoSheet:
        return None


def _compile(formatter: ChatFormatter, conversation: Conversation, whole: Program, prompts: Sequence[Program]) -> Sheet:
    layout, *others = formatter.lay_out_documents(conversation)
    if others:
        raise _NoSheet
    stretches = _stretches(layout.text, whole.pieces, [message.content or "" for message in conversation.messages])
    if len({stretch.text for stretch in stretches} - {-1}) < len(conversation.messages):
        raise _NoSheet  # whether a text that is left out was reasoning depends on the text
    end = stretches[-1].end if stretches else 0
    written = [*whole.pieces, Text(layout.text[end:])]  # the token that closes the last turn
    stretches.append(_Stretch(end, len(layout.text), -1, None))
    avoided = _avoided(written, prompts)
    _check_thoughts(layout, stretches)
    tokens = list(template_tokens(layout.text, layout.rows, formatter.lexemes.added))
    rows = [(stretch.start, stretch.end) for stretch in stretches if stretch.text >= 0]
    if not are_fixed(layout.text, rows, tokens, formatter.encoder.added_tokens):
        raise _NoSheet
    atoms = [atom for part in _cut(stretches, tokens) for atom in _atoms(part, layout, avoided)]
    regions = [number for number, _ in groupby(atom.region for atom in atoms) if number >= 0]
    messages = [region.message for region in layout.regions]
    if regions != sorted(set(regions)) or len(messages) != len(set(messages)):
        raise _NoSheet  # turns are told apart, and counted, in the order of the text
    return Sheet(tuple(atoms), tuple(SheetTurn(region.message, region.served) for region in layout.regions))


def _stretches(whole: str, pieces: Sequence[Piece], texts: Sequence[str]) -> list[_Stretch]:
    """The program's pieces as stretches of the rendering, those of no character left out."""
    found: list[_Stretch] = []
    at = 0
    for piece in pieces:
        if isinstance(piece, Text):
            if piece.origin is not None:
                raise _NoSheet
            number, change, text, expression = -1, None, piece.text, None
        else:
            expression = piece.expression
            number, change = _message_text(piece)
            text = change(texts[number]) if change else texts[number]
        if number >= 0 and not text:
            raise _NoSheet
        if not whole.startswith(text, at):
            raise _NoSheet
        if text:
            found.append(_Stretch(at, at + len(text), number, change, expression))
        at += len(text)
    return found


def _message_text(piece: Derived) -> tuple[int, Change | None]:
    """The message whose text a piece is, and what the template takes off it."""
    steps: list[tuple[str, tuple[str | None, ...]]] = []
    expression: Expression = piece.expression
    while isinstance(expression, Call) and expression.op in (*_STRIPPING, "text"):
        op, (expression, *characters) = expression.op, expression.args
        if not all(each is None or (isinstance(each, str) and each.isspace()) for each in characters):
            raise _NoSheet
        steps[:0] = [] if op == "text" else [(op, tuple(characters))]
    if piece.mixed or not isinstance(expression, Leaf) or expression.group < 0 or expression.number:
        raise _NoSheet
    return expression.group, _stripping(tuple(steps))


@functools.cache
def _stripping(steps: tuple[tuple[str, tuple[str | None, ...]], ...]) -> Change | None:
    """One function a chain of methods with their arguments, so that equal changes are the same object."""

    def change(text: str) -> str:
        for name, characters in steps:
            text = getattr(text, name)(*characters)
        return text

    return change if steps else None


def _avoided(whole: Sequence[Piece], prompts: Sequence[Program]) -> dict[Expression, int]:
    """By text of the row, the byte with which it may not begin. Raises _NoSheet."""
    avoided: dict[Expression, int] = {}
    for prompt in prompts:
        found = begins_with(whole, prompt.pieces)
        if found is None:
            raise _NoSheet
        if isinstance(found, Unless) and avoided.setdefault(found.text, found.byte) != found.byte:
            raise _NoSheet
    return avoided


class Unless(NamedTuple):
    """It does not, unless this text of the row begins with this byte."""

    text: Expression
    byte: int


def begins_with(whole: Sequence[Piece], prompt: Sequence[Piece]) -> bool | Unless | None:
    """Whether the text of one program begins with that of another, for every row with no empty text; None where rows
    differ in it."""
    left, right = list(_merged(whole)), list(_merged(prompt))
    while right:
        if not left:
            return False if isinstance(right[0], str) else None
        one, other = left[0], right[0]
        if isinstance(one, str) and isinstance(other, str):
            size = min(len(one), len(other))
            if one[:size] != other[:size]:
                return False
            left[:1] = [one[size:]] if one[size:] else []
            right[:1] = [other[size:]] if other[size:] else []
        elif one == other:
            del left[0], right[0]
        elif isinstance(other, str) and not isinstance(one, str):
            return Unless(one, other.encode()[0])
        else:
            return None
    return True


def _merged(pieces: Sequence[Piece]) -> Iterator[str | Expression]:
    """Expressions, and the constant text between them."""
    for is_text, run in groupby(pieces, key=lambda piece: isinstance(piece, Text)):
        if not is_text:
            yield from (piece.expression for piece in run if isinstance(piece, Derived))
        elif text := "".join(piece.text for piece in run if isinstance(piece, Text)):
            yield text


def _check_thoughts(layout: DocumentLayout, stretches: Sequence[_Stretch]) -> None:
    """Channels look for a tag that opens a thought before a region, and must find it, or see that there is none, before
    they come upon text of the row. Raises _NoSheet."""
    for region in layout.regions:
        ends = [stretch.end for stretch in stretches if stretch.text >= 0 and stretch.start < region.start]
        if ends and ends[-1] > region.start:
            raise _NoSheet
        header = layout.text[ends[-1] if ends else 0 : region.start]
        if ends and "<" not in header and (not header.strip() or ">" in header):
            raise _NoSheet


class _Part(NamedTuple):
    """A stretch between added tokens, or an added token."""

    start: int
    end: int
    stretch: _Stretch
    token: int


def _cut(stretches: Sequence[_Stretch], tokens: Sequence[TokenSpan]) -> Iterator[_Part]:
    """Stretches cut at added tokens, which may begin in one constant and end in the next."""
    waiting = list(tokens)
    at = 0
    for stretch in stretches:
        at = max(at, stretch.start)
        while waiting and waiting[0].start < stretch.end:
            span = waiting.pop(0)
            if at < span.start:
                yield _Part(at, span.start, stretch, -1)
            yield _Part(span.start, span.end, stretch, span.id)
            at = span.end
        if at < stretch.end:
            yield _Part(at, stretch.end, stretch, -1)
            at = stretch.end


def _atoms(part: _Part, layout: DocumentLayout, avoided: Mapping[Expression, int]) -> Iterator[Atom]:
    start, end, stretch, token = part
    channels, numbers = layout.characters[start:end], layout.numbers[start:end]
    if token >= 0:
        yield Atom(int(channels[0]), int(numbers[0]), token)
        return
    changes = np.flatnonzero((channels[1:] != channels[:-1]) | (numbers[1:] != numbers[:-1])) + 1
    borders = [0, *changes.tolist(), end - start]
    if stretch.text >= 0:
        if len(borders) > 2:
            raise _NoSheet
        avoids = avoided.get(stretch.expression, -1) if stretch.expression else -1
        if layout.text[start].encode()[0] == avoids:
            raise _NoSheet
        yield Atom(
            int(channels[0]), int(numbers[0]), text=stretch.text, change=stretch.change, avoids=avoids, is_row=True
        )
        return
    for low, high in pairwise(borders):
        yield Atom(int(channels[low]), int(numbers[low]), constant=layout.text[start + low : start + high])
