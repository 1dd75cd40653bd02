"""Changing the pieces of a sentencepiece model file, without protobuf.

A model is a ModelProto, whose field 1 holds the pieces in the order of their ids: 1 text, 2 score (float), 3 type.
"""

from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import NamedTuple

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class PieceType(IntEnum):
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3  # never made of text
    USER_DEFINED = 4  # always made of its text
    UNUSED = 5
    BYTE = 6


class _Field(NamedTuple):
    """model[start:end] is the whole field, model[value:end] its value."""

    number: int
    start: int
    value: int
    end: int


def piece_types(model: bytes) -> list[PieceType]:
    """By id."""
    types = []
    for field in _fields(model):
        if field.number == 1:
            piece = model[field.value : field.end]
            # Read field by field only where the type may be written: as the last of the fields, in two bytes.
            given = [piece[f.value] for f in _fields(piece) if f.number == 3] if piece[-2:-1] == b"\x18" else []
            types.append(PieceType(given[0] if given else PieceType.NORMAL))
    return types


def change_pieces(model: bytes, changes: Mapping[int, tuple[str, PieceType]]) -> bytes:
    """The model with other texts and types for the pieces of these ids; ids above the last add pieces, and must follow
    it without gaps."""
    parts, size = [], 0
    for field in _fields(model):
        piece = model[field.start : field.end]
        if field.number == 1:
            if size in changes:
                scores = [f for f in _fields(model[field.value : field.end]) if f.number == 2]
                score = model[field.value :][scores[0].value : scores[0].end] if scores else bytes(4)
                piece = _encode(*changes[size], score)
            size += 1
        parts.append(piece)
    added = sorted(index for index in changes if index >= size)
    assert added == list(range(size, size + len(added)))
    return b"".join([*parts, *(_encode(*changes[index], bytes(4)) for index in added)])


def _encode(content: str, piece_type: PieceType, score: bytes) -> bytes:
    text = content.encode()
    body = b"\x0a" + _varint(len(text)) + text + b"\x15" + score + b"\x18" + _varint(piece_type)
    return b"\x0a" + _varint(len(body)) + body


def _fields(message: bytes) -> Iterator[_Field]:
    position = 0
    while position < len(message):
        start = position
        tag, position = _read_varint(message, position)
        value = position
        kind = tag & 7
        if kind == _VARINT:
            _, position = _read_varint(message, position)
        elif kind == _BYTES:
            length, value = _read_varint(message, position)
            position = value + length
        else:
            position += {_FIXED64: 8, _FIXED32: 4}[kind]
        yield _Field(tag >> 3, start, value, position)


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7


def _varint(value: int) -> bytes:
    groups = []
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    return bytes([*groups, value])
