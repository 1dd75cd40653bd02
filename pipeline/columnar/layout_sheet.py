"""The sheet of one document that the reference has laid out, to be encoded together with others."""

import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.chat.layout import DocumentLayout
from pipeline.chat.template import OUTSIDE_SPANS
from pipeline.chat.traced import Field
from pipeline.columnar.sheet import Atom, Sheet, SheetTurn
from pipeline.encoders.base import Encoder, TokenFinder, TokenSpan, gaps


class LayoutSheets:
    """`plain` are the added tokens that come out of any text; control tokens come out where the layout has them."""

    def __init__(self, encoder: Encoder) -> None:
        self._plain = TokenFinder(token for token in encoder.added_tokens if not token.special)
        self._form = encoder.normal_form

    def make(self, layout: DocumentLayout) -> Sheet | None:
        """None where the layout has what sheets have not: spans and weights, a context, an added token that takes in
        row text and template text, a text that is not in the normal form, turns in another order than their
        messages."""
        text = layout.text
        if layout.controls is None or layout.weights is not None or layout.context or _has_outside(layout):
            return None
        if self._form is not None and not unicodedata.is_normalized(self._form, text):
            return None
        messages = [region.message for region in layout.regions]
        if len(messages) != len(set(messages)) or not _in_order(layout.numbers):
            return None
        tokens = list(self._tokens(text, layout.controls))
        kinds = _kinds(layout)
        starts = {span.start: span for span in tokens}
        if any((kinds[span.start : span.end] != kinds[span.start]).any() for span in tokens):
            return None
        changes = np.flatnonzero(kinds[1:] != kinds[:-1]) + 1
        token_borders = [border for span in tokens for border in (span.start, span.end)]
        borders = sorted({0, len(text), *changes.tolist(), *token_borders})
        atoms = [
            _atom(int(kind), text[start:end], starts.get(start))
            for start, end, kind in zip(borders, borders[1:], kinds[borders[:-1]].tolist(), strict=False)
        ]
        turns = (SheetTurn(r.message, r.served, r.message in layout.dropped) for r in layout.regions)
        return Sheet(tuple(atoms), tuple(turns))

    def _tokens(self, text: str, controls: Sequence[TokenSpan]) -> Iterator[TokenSpan]:
        for (start, end), control in zip(gaps(len(text), controls), [*controls, None], strict=True):
            for span in self._plain.find(text[start:end]):
                content = slice(start + span.content.start, start + span.content.stop)
                yield TokenSpan(start + span.start, start + span.end, span.id, content)
            if control is not None:
                yield control


def _has_outside(layout: DocumentLayout) -> bool:
    """Whether some content lies outside the spans that its message is trained on."""
    return any(row.origin.field == Field.BODY and row.origin.part == OUTSIDE_SPANS for row in layout.rows)


def _in_order(numbers: npt.NDArray[np.int32]) -> bool:
    """Whether each region is one stretch, and they come in the order of their numbers."""
    changes = numbers[np.flatnonzero(np.diff(numbers, prepend=-1))]
    regions = changes[changes >= 0]
    return bool((np.diff(regions) > 0).all())


def _kinds(layout: DocumentLayout) -> npt.NDArray[np.int64]:
    """int64[characters]: region, channel, and whether the character is the row's, in one number."""
    is_row = np.zeros(len(layout.text), np.int64)
    for start, end, _ in layout.rows:
        is_row[start:end] = 1
    return (layout.numbers.astype(np.int64) + 1) << 9 | layout.characters.astype(np.int64) << 1 | is_row


def _atom(kind: int, text: str, token: TokenSpan | None) -> Atom:
    channel, region, is_row = kind >> 1 & 255, (kind >> 9) - 1, bool(kind & 1)
    if token is not None:
        return Atom(channel, region, token.id, is_row=is_row)
    return Atom(channel, region, constant=text, is_row=is_row)
