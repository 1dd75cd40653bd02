"""The channel of every character of a rendering, and from it the channel of every token."""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import islice, takewhile

import numpy as np
import numpy.typing as npt

from pipeline.chat.layout import Layout
from pipeline.chat.lexemes import Lexemes, first_in
from pipeline.chat.regions import Region, RowSpan
from pipeline.chat.traced import Field
from pipeline.encoders.base import Encoded
from schemas.channels import LAST_TURN, NO_LOSS, Part, Role
from schemas.conversation import Message

ROLE_BITS = 7
Bytes = npt.NDArray[np.uint8]

_ROLES = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
    "tool": Role.TOOL,
}
_OPENING_TAG = re.compile(r"<([^<>/\s]+)>")
_CALL_FIELDS = (Field.TOOL_CALL, Field.CALL_NAME, Field.CALL_ID)
_PARTS = {Field.BODY: Part.BODY, Field.REASONING: Part.REASONING, **dict.fromkeys(_CALL_FIELDS, Part.TOOL_CALL)}


def character_channels(layout: Layout, messages: Sequence[Message], lexemes: Lexemes, last_turn: int) -> Bytes:
    """uint8[len(text)]: role and part of each character, with the bits of its message. `last_turn` is the index of the
    conversation's last assistant message."""
    text, rows = layout.text, layout.rows
    channels = np.zeros(len(text), np.uint8)
    _mark_rows(channels, rows, messages)
    _mark_turn_ends(text, channels, rows, messages, lexemes)
    parts = np.full(len(text), Part.MARKUP, np.uint8)
    ends = [span.end for span in rows]
    for region in layout.regions:
        bits = _message_bits(messages, region.message) | LAST_TURN * (region.message == last_turn)
        own = list(_rows_of(region, rows, bisect_left(ends, region.start)))
        _mark_region(parts, text, own, region, lexemes)
        span = slice(region.start, region.end)
        channels[span] = parts[span] << np.uint8(3) | np.uint8(bits)
    return channels


def _mark_rows(channels: Bytes, rows: Sequence[RowSpan], messages: Sequence[Message]) -> None:
    """Outside regions: template text has the role of the next row character and is part 0; so is what the template
    emits of an assistant outside its turn."""
    position = 0
    for start, end, origin in rows:
        bits = _message_bits(messages, origin.message)
        is_body = bits & ROLE_BITS != Role.ASSISTANT and origin.field in (Field.BODY, Field.ROW)
        channels[position:start] = bits
        channels[start:end] = bits | (Part.BODY if is_body else Part.TEMPLATE) << 3
        position = max(position, end)


def _message_bits(messages: Sequence[Message], index: int) -> int:
    """The role of a message, and bit 7 where the row wants it kept out of the loss; 0 for what is no message's."""
    if index < 0:
        return Role.NONE
    return _ROLES[messages[index].role] | NO_LOSS * (messages[index].train is False)


def _mark_turn_ends(
    text: str, channels: Bytes, rows: Sequence[RowSpan], messages: Sequence[Message], lexemes: Lexemes
) -> None:
    """The token that ends the turn of a message of another role than the assistant."""
    for number, span in enumerate(rows):
        message = span.origin.message
        following = rows[number + 1] if number + 1 < len(rows) else None
        same = following is not None and following.origin.message == message
        if message < 0 or same or messages[message].role == "assistant":
            continue
        found = first_in(lexemes.ends, text, [(span.end, following.start if following else len(text))])
        if found:
            channels[found.start : found.end] = _message_bits(messages, message) | Part.END << 3


def _rows_of(region: Region, rows: Sequence[RowSpan], first: int) -> Iterator[RowSpan]:
    """The message's rows in its region, none of which is before `first`. A prompt may end inside a row's text, where it
    forces what the row begins with."""
    for start, end, origin in islice(rows, first, None):
        if start > region.end_token:
            return
        if origin.message == region.message:
            yield RowSpan(max(start, region.start), min(end, region.end_token), origin)


def _mark_region(parts: Bytes, text: str, own: Sequence[RowSpan], region: Region, lexemes: Lexemes) -> None:
    """What each character of a generated region is; it is markup where nothing else is said."""
    _mark_calls(parts, own, region.start, region.end_token)
    thought_end = _mark_reasoning(parts, text, own, region, lexemes)
    for start, end, origin in own:
        part = _PARTS.get(origin.field, Part.MARKUP)
        if start < thought_end:  # it may be cut out of the content, which is the origin
            thought = parts[start:end] == Part.REASONING
            parts[start:end][~thought] = part
        else:
            parts[start:end] = part
    parts[region.end_token : region.end] = Part.END


def _mark_calls(parts: Bytes, own: Sequence[RowSpan], start: int, end: int) -> None:
    """Template text that touches a tool call, up to the next text of another field, belongs to the call."""
    for number, span in enumerate(own):
        if span.origin.field in _CALL_FIELDS:
            before = own[number - 1].end if number else start
            after = own[number + 1].start if number + 1 < len(own) else end
            parts[before:after] = Part.TOOL_CALL


def _mark_reasoning(parts: Bytes, text: str, own: Sequence[RowSpan], region: Region, lexemes: Lexemes) -> int:
    """The opening tag is what stands before the reasoning; the closing tag goes through the first added token after
    it, else through the line. Gives the end of what was marked."""
    spans = [number for number, span in enumerate(own) if span.origin.field == Field.REASONING]
    if not spans:
        end = _end_of_thought(text, own, region)
        parts[region.start : end] = Part.REASONING
        return end
    last = spans[-1]
    limit = own[last + 1].start if last + 1 < len(own) else region.end_token
    begin = own[spans[0] - 1].end if spans[0] else region.start
    after = text[own[last].end : limit]
    tag = next(lexemes.added.find(after), None)
    line = text.find("\n", limit - len(after.lstrip()), limit)
    closing = own[last].end + tag.end if tag else limit if line < 0 else line + 1
    parts[begin:closing] = Part.REASONING
    return closing


def _end_of_thought(text: str, own: Sequence[RowSpan], region: Region) -> int:
    """Where a thought ends that the template itself puts in tags, at the head of a turn or from its header on: an empty
    one, or one that it cut out of the content. The region's start where there is none."""
    first = own[0].start if own else region.end_token
    opening = _OPENING_TAG.match(text, _skip_space(text, region.start), first)
    if opening is None:
        opening = next(_OPENING_TAG.finditer(text, text.rfind("<", 0, region.start), region.start), None)
        if opening is None or _skip_space(text, opening.end()) < region.start:
            return region.start
    body = list(takewhile(lambda span: span.origin.field == Field.BODY, own))
    limit = own[len(body)].start if len(body) < len(own) else region.end_token
    borders = [region.start, *(at for span in body for at in (span.start, span.end)), limit]
    for start, end in zip(borders[::2], borders[1::2], strict=True):
        closing = text.find(f"</{opening[1]}>", start, end)
        if closing >= 0:
            return closing + len(opening[0]) + 1
    return region.start


def _skip_space(text: str, position: int) -> int:
    while text[position : position + 1].isspace():
        position += 1
    return position


def region_numbers(length: int, regions: Sequence[Region]) -> npt.NDArray[np.int32]:
    """int32[length]: the index of the region that each character is in, -1 outside."""
    numbers = np.full(length, -1, np.int32)
    for number, region in enumerate(regions):
        numbers[region.start : region.end] = number
    return numbers


def token_channels(
    encoded: Encoded, channels: Bytes, rows: Sequence[RowSpan], numbers: npt.NDArray[np.int32]
) -> tuple[Bytes, int]:
    """uint8[n], the channel of each token, and how many tokens straddle the begin of a region.

    A token that begins before a region is template: the server can never write it. Otherwise a token that holds a
    byte of row text is that text.
    """
    size = len(channels)
    first = np.minimum(encoded.starts, size - 1)
    last = np.clip(encoded.ends - 1, first, size - 1)
    text_at = _next_row_character(size, rows)[first]
    holds_text = (text_at <= last) & (numbers[np.minimum(text_at, size - 1)] == numbers[first])
    decisive = np.where(holds_text, text_at, first)
    straddling = (numbers[last] >= 0) & (numbers[first] != numbers[last])
    return channels[decisive], int(straddling.sum())


def _next_row_character(size: int, rows: Sequence[RowSpan]) -> npt.NDArray[np.int32]:
    """int32[size]: the first row character at or after each character; `size` where there is none."""
    places = np.full(size, size, np.int32)
    for start, end, _ in rows:
        places[start:end] = np.arange(start, end, dtype=np.int32)
    return np.minimum.accumulate(places[::-1])[::-1]
