"""What the model itself would have written: the generated region of every assistant message.

The header of a turn is found by comparing two texts of the template's own: what follows the last row character
of the prompt that serving sends (`messages[:i]` with the generation prompt), and what stands in the whole
rendering before the first row character of message i. Their longest common prefix, in whole lexemes (an added
token, or one character), is the header. The region runs from there through the first end token after the
message's last row character, or up to the next message's first.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from pipeline.chat.traced import Field, Origin, Traced, concat
from pipeline.encoders.base import AddedToken, TokenFinder
from schemas.conversation import Message
from schemas.rejects import Reason, RejectRow


class RowSpan(NamedTuple):
    """Row characters [start, end) of a rendering; of length 0 for an empty field."""

    start: int
    end: int
    origin: Origin


class Region(NamedTuple):
    """[start, end) of message `message`; [end_token, end) is the token that ends the turn, empty where none does."""

    message: int
    start: int
    end: int
    end_token: int


class Lexemes:
    """The tokenizer's added tokens, as far as they matter for cutting a rendering: all of them, and those that end
    a turn."""

    def __init__(self, added: Sequence[AddedToken], ends: Sequence[AddedToken]) -> None:
        self.added = TokenFinder(added)
        self.ends = TokenFinder(ends)

    def split(self, text: str) -> Iterator[str]:
        """Whole lexemes: added tokens, and single characters between them."""
        position = 0
        for span in self.added.find(text):
            yield from text[position : span.start]
            yield text[span.start : span.end]
            position = span.end
        yield from text[position:]

    def common_prefix(self, one: str, other: str) -> int:
        """The length of the longest common prefix in whole lexemes."""
        length = 0
        for left, right in zip(self.split(one), self.split(other), strict=False):
            if left != right:
                break
            length += len(left)
        return length

    def first_end(self, text: str, start: int, stop: int) -> tuple[int, int] | None:
        """Where the first end token in text[start:stop] stands."""
        span = next(self.ends.find(text[start:stop]), None)
        return None if span is None else (start + span.start, start + span.end)


def row_spans(rendering: Traced) -> list[RowSpan]:
    """Raises RejectRow where the template printed a null."""
    spans = []
    position = 0
    for run in rendering.runs:
        if run.origin is not None and run.origin.field == Field.NONE:
            raise RejectRow(Reason.NONE_RENDERED, "the template prints a null field as 'None'")
        if run.origin is not None and run.origin.is_text:
            spans.append(RowSpan(position, position + run.length, run.origin))
        position += run.length
    return spans


def close_last_turn(rendering: Traced, messages: Sequence[Message], closing: str | None, lexemes: Lexemes) -> Traced:
    """A rendering whose last assistant turn the template leaves open, with the token that ends a turn appended."""
    if closing is None or messages[-1].role != "assistant":
        return rendering
    last_row = max((span.end for span in row_spans(rendering)), default=0)
    if lexemes.first_end(rendering.plain, last_row, len(rendering)) is not None:
        return rendering
    return concat((rendering, closing))


def find_regions(
    rendering: Traced,
    rows: Sequence[RowSpan],
    messages: Sequence[Message],
    prompt: Callable[[int], Traced | None],
    lexemes: Lexemes,
) -> list[Region]:
    """The regions in order. `rows` are the rendering's; `prompt(i)` renders messages[:i] with the generation prompt,
    None where it cannot be."""
    marked = _marked_regions(rendering)
    if marked:
        return _regions_of_marks(rendering.plain, rows, marked, lexemes)
    text = rendering.plain
    regions = []
    for index, message in enumerate(messages):
        if message.role == "assistant":
            regions.append(_find_region(text, rows, index, prompt(index), lexemes))
    return regions


def _find_region(text: str, rows: Sequence[RowSpan], message: int, prompt: Traced | None, lexemes: Lexemes) -> Region:
    first = next((k for k, span in enumerate(rows) if span.origin.message == message), None)
    if first is None:
        raise RejectRow(Reason.NOT_EMITTED, f"the template emits nothing of messages[{message}]")
    after = next((k for k in range(first, len(rows)) if rows[k].origin.message != message), len(rows))
    before = rows[first - 1].end if first else 0
    limit = rows[after].start if after < len(rows) else len(text)
    start = before + _header_length(text[before : rows[first].start], prompt, lexemes)
    found = lexemes.first_end(text, rows[after - 1].end, limit)
    end_token, end = found or (limit, limit)
    return Region(message, start, end, end_token)


def _header_length(stretch: str, prompt: Traced | None, lexemes: Lexemes) -> int:
    if prompt is None:
        return len(stretch)
    tail = max((span.end for span in row_spans(prompt)), default=0)
    return lexemes.common_prefix(stretch, prompt.plain[tail:])


def _marked_regions(rendering: Traced) -> list[tuple[int, int]]:
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


def _regions_of_marks(
    text: str, rows: Sequence[RowSpan], marked: list[tuple[int, int]], lexemes: Lexemes
) -> list[Region]:
    """Each block belongs to the message of its first row character; one without any is no message's."""
    regions = []
    for start, end in marked:
        inside = [span for span in rows if start <= span.start and span.end <= end and span.origin.message >= 0]
        if inside:
            found = lexemes.first_end(text, inside[-1].end, end)
            regions.append(Region(inside[0].origin.message, start, end, found[0] if found else end))
    return regions


def check_emitted(text: str, rows: Sequence[RowSpan], messages: Sequence[Message]) -> None:
    """Every message's text and calls must stand in the rendering, and the last answer's reasoning; templates drop that
    of earlier ones. Raises RejectRow."""
    last = max((index for index, message in enumerate(messages) if message.role == "assistant"), default=-1)
    emitted: dict[Origin, int] = {}
    for start, end, origin in rows:
        origin = origin._replace(part=0) if origin.field == Field.BODY else origin  # inside its spans and outside
        emitted[origin] = emitted.get(origin, 0) + _visible(text[start:end])
    for index, message in enumerate(messages):
        if emitted.get(Origin(index, Field.BODY), 0) < _visible(message.content or ""):
            raise RejectRow(Reason.NOT_EMITTED, f"the template drops text of messages[{index}] ({message.role})")
        if index == last and message.reasoning_content and not emitted.get(Origin(index, Field.REASONING)):
            raise RejectRow(
                Reason.NOT_EMITTED, f"the template drops the reasoning of the last answer, messages[{index}]"
            )
        for part in range(len(message.tool_calls)):
            if not emitted.get(Origin(index, Field.TOOL_CALL, part)):
                raise RejectRow(Reason.NOT_EMITTED, f"the template drops tool_calls[{part}] of messages[{index}]")


def _visible(text: str) -> int:
    """How many characters are not white space."""
    return len("".join(text.split()))
