"""The tokenizer's added tokens, as far as they matter for cutting a rendering."""

from collections.abc import Iterator, Sequence

from pipeline.encoders.base import AddedToken, TokenFinder, TokenSpan


class Lexemes:
    """All added tokens; `ends` are those that end a turn, `stops` those of them at which a server stops."""

    def __init__(self, added: Sequence[AddedToken], ends: Sequence[AddedToken], stops: Sequence[AddedToken]) -> None:
        self.added = TokenFinder(added)
        self.ends = TokenFinder(ends)
        self.stops = TokenFinder(stops)

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

    def find_end(self, text: str, gaps: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
        """Where the token that ends a turn stands in these stretches of a text: the first at which a server stops,
        else the first that ends a turn."""
        found = first_in(self.stops, text, gaps) or first_in(self.ends, text, gaps)
        return None if found is None else (found.start, found.end)


def first_in(finder: TokenFinder, text: str, gaps: Sequence[tuple[int, int]]) -> TokenSpan | None:
    """The first token in these stretches of a text."""
    for start, stop in gaps:
        for span in finder.find(text[start:stop]):
            content = slice(start + span.content.start, start + span.content.stop)
            return TokenSpan(start + span.start, start + span.end, span.id, content)
    return None
