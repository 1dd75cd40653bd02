"""Whether the added tokens of a template are the same ones whatever the row texts beside them are."""

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.encoders.base import AddedToken, TokenSpan

Borders = Sequence[tuple[int, int]]


def are_fixed(text: str, rows: Borders, tokens: Sequence[TokenSpan], added: Sequence[AddedToken]) -> bool:
    """`rows` are the row texts of a rendering, in order, and `tokens` the added tokens that it has outside of them."""
    of_row = np.zeros(len(text) + 1, np.bool_)
    for start, end in rows:
        of_row[start:end] = True
    flags = {token.id: token for token in added}
    return not (
        any(of_row[_reach(span, flags[span.id])].any() for span in tokens)
        or any(of_row[[max(start - 1, 0), end]].any() for start, end in _words(text, added))
        or any(_may_take(text, row, tokens, [token.content for token in added]) for row in rows)
    )


def _reach(span: TokenSpan, token: AddedToken) -> slice:
    """What a token covers, and the characters beside it on which that depends: white space that it would take in, a
    mark that would compose with its last letter."""
    return slice(max(span.start - token.lstrip, 0), span.end + (token.rstrip or token.normalized))


def _words(text: str, added: Sequence[AddedToken]) -> Iterator[tuple[int, int]]:
    """Where tokens stand that are none within a word."""
    for token in added:
        start = text.find(token.content) if token.single_word else -1
        while start >= 0:
            yield start, start + len(token.content)
            start = text.find(token.content, start + 1)


def _may_take(text: str, row: tuple[int, int], tokens: Sequence[TokenSpan], contents: Sequence[str]) -> bool:
    """Whether an added token that lies partly in a row text could take characters of one of the template's."""
    start, end = row
    before = max((span.end for span in tokens if span.end <= start), default=-len(text))
    after = min((span.start for span in tokens if span.start >= end), default=2 * len(text))
    backwards = [content[::-1] for content in contents]
    return _reaches(text[end:], after - end, contents) or _reaches(text[:start][::-1], start - before, backwards)


def _reaches(beside: str, distance: int, contents: Sequence[str]) -> bool:
    """Whether the text beside a row begins with the rest of a token that goes further than `distance`."""
    sizes = ((content, size) for content in contents for size in range(distance + 1, len(content)))
    return any(beside.startswith(content[-size:]) for content, size in sizes)
