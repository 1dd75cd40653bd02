"""What the model itself would have written: the generated region of every assistant message.

A region begins where the prompt ends that serving sends (`messages[:i]` with the generation prompt), wherever that
prompt is a prefix of the whole rendering. Elsewhere (a prompt that forces `<think>`, a history that is rewritten) two
texts of the template's own are compared: what follows the last row character of the prompt, and what stands in the
whole rendering before the first row character of message i. Their longest common prefix, in whole lexemes (an added
token, or one character), is the header. The region runs from there through the token that ends the turn, or up to
the next message's first row character.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from pipeline.chat.lexemes import Lexemes
from pipeline.chat.traced import Field, Origin, Traced, concat, runs_of
from schemas.conversation import Message
from schemas.rejects import Reason, RejectRow

Prompt = Callable[[int], Traced | None]
"""Renders messages[:i] with the generation prompt; None where the template refuses that."""


class RowSpan(NamedTuple):
    """Row characters [start, end) of a rendering; of length 0 for an empty field."""

    start: int
    end: int
    origin: Origin


class Region(NamedTuple):
    """[start, end) of message `message`; [end_token, end) is the token that ends the turn, empty where none does.
    `served`: the served prompt is exactly what stands before the region."""

    message: int
    start: int
    end: int
    end_token: int
    served: bool


def row_spans(rendering: Traced) -> list[RowSpan]:
    """Raises RejectRow where the template printed a null."""
    spans = []
    position = 0
    for length, origin in rendering.runs:
        if origin is not None:
            if origin.field <= Field.ROW:
                spans.append(RowSpan(position, position + length, origin))
            elif origin.field == Field.NONE:
                raise _printed_null()
        position += length
    return spans


def _end_of_rows(rendering: Traced) -> int:
    """Where the last row character ends. Raises RejectRow where the template printed a null."""
    end = position = 0
    for piece in rendering.pieces:
        for length, origin in runs_of(piece):
            position += length
            if origin is not None:
                if origin.field <= Field.ROW:
                    end = position
                elif origin.field == Field.NONE:
                    raise _printed_null()
    return end


def _printed_null() -> RejectRow:
    return RejectRow(Reason.NONE_RENDERED, "the template prints a null field as 'None'")


class Stretch(NamedTuple):
    """The rows [first, after) of a rendering are the first ones of a message, one after the other; [first, own) are
    those that the model writes."""

    first: int
    own: int
    after: int


def first_stretches(rows: Sequence[RowSpan]) -> dict[int, Stretch]:
    """By message. A stretch that ends in the name or the id of a call written before (gpt-oss and Gemma 4 name the
    called function in the header of its result) ends its own rows before that."""
    found: dict[int, Stretch] = {}
    first = 0
    for number, span in enumerate(rows):
        message = span.origin.message
        if number + 1 < len(rows) and rows[number + 1].origin.message == message:
            continue
        if message >= 0 and message not in found:
            found[message] = Stretch(first, _without_mentions(rows, first, number + 1), number + 1)
        first = number + 1
    return found


def _without_mentions(rows: Sequence[RowSpan], first: int, after: int) -> int:
    written = [span.origin for span in rows[first:after]]
    while len(written) > 1 and written[-1].field in (Field.CALL_NAME, Field.CALL_ID) and written[-1] in written[:-1]:
        written.pop()
    return first + len(written)


def find_turn_end(text: str, rows: Sequence[RowSpan], stretch: Stretch, lexemes: Lexemes) -> tuple[int, int] | None:
    """Where the token stands that ends the turn, in the template text after the last own row."""
    return lexemes.find_end(text, list(template_gaps(text, rows, stretch)))


def template_gaps(text: str, rows: Sequence[RowSpan], stretch: Stretch) -> Iterator[tuple[int, int]]:
    """Template text from the last own row of a stretch up to the next message's first row character."""
    for number in range(stretch.own - 1, stretch.after):
        yield rows[number].end, rows[number + 1].start if number + 1 < len(rows) else len(text)


def close_last_turn(
    rendering: Traced, rows: Sequence[RowSpan], messages: Sequence[Message], closing: str | None, lexemes: Lexemes
) -> Traced:
    """A rendering whose last assistant turn the template leaves open, with the token that ends a turn appended. `rows`
    are the rendering's, and still are afterwards."""
    if closing is None or messages[-1].role != "assistant":
        return rendering
    last_row = max((span.end for span in rows), default=0)
    if lexemes.find_end(rendering.plain, [(last_row, len(rendering))]) is not None:
        return rendering
    return concat((rendering, closing))


def find_regions(
    rendering: Traced, rows: Sequence[RowSpan], assistants: Sequence[int], prompt: Prompt, lexemes: Lexemes
) -> list[Region]:
    """The regions of these assistant messages, in order; `rows` are the rendering's. Raises RejectRow for a message
    that is not emitted."""
    marked = _regions_of_marks(rendering, rows, prompt, lexemes)
    stretches = first_stretches(rows)
    regions = []
    for index in assistants:
        blocks = [region for region in marked if region.message == index]
        regions += blocks or [_find_region(rendering.plain, rows, index, stretches.get(index), prompt, lexemes)]
    return regions


def _find_region(
    text: str, rows: Sequence[RowSpan], message: int, stretch: Stretch | None, prompt: Prompt, lexemes: Lexemes
) -> Region:
    served = prompt(message)
    is_prefix = served is not None and text.startswith(served.plain)
    if stretch is None:
        if served is None or not is_prefix:
            raise RejectRow(Reason.NOT_EMITTED, f"the template emits nothing of messages[{message}]")
        return _empty_region(text, rows, message, len(served), lexemes)
    before = rows[stretch.first - 1].end if stretch.first else 0
    limit = rows[stretch.after].start if stretch.after < len(rows) else len(text)
    end_token, end = find_turn_end(text, rows, stretch, lexemes) or (limit, limit)
    if served is not None and is_prefix and before <= len(served) <= end_token:
        return Region(message, len(served), end, end_token, served=True)
    header = _header_length(text[before : rows[stretch.first].start], served, lexemes)
    return Region(message, before + header, end, end_token, served=False)


def _empty_region(text: str, rows: Sequence[RowSpan], message: int, start: int, lexemes: Lexemes) -> Region:
    """Of an answer without a row character: what follows the served prompt."""
    limit = next((span.start for span in rows if span.start >= start), len(text))
    end_token, end = lexemes.find_end(text, [(start, limit)]) or (limit, limit)
    return Region(message, start, end, end_token, served=True)


def _header_length(stretch: str, prompt: Traced | None, lexemes: Lexemes) -> int:
    if prompt is None:
        return len(stretch)
    return lexemes.common_prefix(stretch, prompt.plain[_end_of_rows(prompt) :])


def _marked_spans(rendering: Traced) -> list[tuple[int, int]]:
    """The spans of {% generation %} blocks."""
    starts: list[int] = []
    spans: list[tuple[int, int]] = []
    position = 0
    for run in rendering.runs:
        if run.origin is not None and run.origin.field == Field.GENERATION_START:
            starts.append(position)
        if run.origin is not None and run.origin.field == Field.GENERATION_END:
            spans.append((starts.pop(), position))
        position += run.length
    return sorted(span for span in spans if span[0] < span[1])


def _regions_of_marks(rendering: Traced, rows: Sequence[RowSpan], prompt: Prompt, lexemes: Lexemes) -> list[Region]:
    """Each block belongs to the message of its first row character; one without any is no message's. What a block
    has after the token that ends the turn, such as a line end, the model cannot write."""
    regions = []
    for start, end in _marked_spans(rendering):
        inside = [span for span in rows if start <= span.start and span.end <= end and span.origin.message >= 0]
        if inside:
            message = inside[0].origin.message
            end_token, stop = lexemes.find_end(rendering.plain, [(inside[-1].end, end)]) or (end, end)
            served = prompt(message)
            is_served = served is not None and len(served) == start and rendering.plain.startswith(served.plain)
            regions.append(Region(message, start, stop, end_token, is_served))
    return regions
