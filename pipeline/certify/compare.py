"""Our ids of a row against those of the other stack."""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.certify.oracle import Oracle
from pipeline.certify.raw_rows import Request
from pipeline.recipe import Recipe, Tools
from pipeline.token_block import TokenBlock
from schemas.conversation import Conversation, Document, TextDocument
from schemas.manifest import Certificate, Difference

Ids: TypeAlias = npt.NDArray[np.int32]
Pieces: TypeAlias = list[Ids]
"""The documents that a row gave, in order."""

Place: TypeAlias = tuple[int, int]
"""A row's source and position."""

Piece: TypeAlias = tuple[int, int, int]
"""A document's source, position and piece."""

SHOWN = 8
"""Ids of either side that a difference keeps."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the other stack gives, and what we have: ids, or code points where only text is compared."""

    expected: list[int]
    found: list[int]
    with_control_text: bool

    @property
    def index(self) -> int | None:
        """Where they part; None where they are equal."""
        pairs = enumerate(zip_longest(self.expected, self.found))
        return next((index for index, (one, other) in pairs if one != other), None)


class Comparer:
    def __init__(self, recipe: Recipe, tools: Tools, oracle: Oracle) -> None:
        self._formatter = tools.formatter
        self._encoder = tools.formatter.encoder if tools.formatter else tools.tokenizer.encoder
        self._controls = [token for token in self._encoder.added_tokens if token.special]
        end_ids = tools.formatter.end_ids if tools.formatter else []
        self._ends = {token.id: token.content for token in self._controls if token.id in end_ids}
        self._oracle = oracle
        config = recipe.config
        self._seq_len = config.seq_len
        self._cut = config.seq_len if config.too_long == "truncate" else None
        self._drops_turns = config.too_long == "truncate_turns"
        self._splits = config.reasoning_history == "split"

    def compare(self, request: Request, document: Document, pieces: Pieces) -> Comparison | None:
        """`pieces` are the ids of the document as they are trained on. None where there is nothing to compare."""
        found = (_joined(pieces) if isinstance(document, TextDocument) else pieces[-1]).tolist()
        if isinstance(document, TextDocument) != ("text" in request):
            return Comparison([], found, False)
        typed = self._has_control_text(request)
        if isinstance(document, TextDocument):
            return self._compare_text(request["text"], found, typed)
        try:
            text = self._oracle.render(request)
        except Exception:  # the template refuses there what it takes here
            return Comparison([], found, typed)
        return self._compare_rendering(text, document, found, typed)

    def _compare_text(self, text: str, found: list[int], typed: bool) -> Comparison | None:
        if self._oracle.encode is None or self._oracle.encode_document is None:
            return None
        if typed:
            return Comparison(self._oracle.encode(text), self._encoder.encode(text, None).ids.tolist(), True)
        return Comparison(self._truncated(self._oracle.encode_document(text), found), found, False)

    def _compare_rendering(self, text: str, document: Conversation, found: list[int], typed: bool) -> Comparison | None:
        """The last piece of a split history is the whole conversation; one that lost its last turns is another."""
        assert self._formatter is not None
        ends = self._ends if typed or not text.rstrip().endswith(tuple(self._ends.values())) else {}
        if self._oracle.encode is None:
            own = self._formatter.render(document).plain
            closing = next((end for end in ends.values() if own == text + end), "")
            return Comparison(_codes(text + closing), _codes(own), typed)
        if self._is_another(document, found):
            return None
        expected = self._oracle.encode(text)
        if typed:
            found = self._encoder.encode(self._formatter.render(document).plain, None).ids.tolist()
        if len(found) == len(expected) + 1 and found[-1] in ends:
            expected = [*expected, found[-1]]  # the token that closes a turn which the template left open
        return Comparison(expected if typed else self._truncated(expected, found), found, typed)

    def _is_another(self, document: Conversation, found: list[int]) -> bool:
        """Whether what is found is no rendering of the whole conversation: it lost its last turns, or the last piece of
        a split history, which has no trained token."""
        assert self._formatter is not None
        if not (self._drops_turns or self._splits):
            return False
        documents = self._formatter.documents(document)
        too_long = self._drops_turns and max(map(len, documents)) > self._seq_len
        return too_long or (self._splits and documents[-1].input_ids[: self._cut].tolist() != found)

    def _truncated(self, expected: list[int], found: list[int]) -> list[int]:
        return expected[: self._cut] if len(found) == self._cut else expected

    def _has_control_text(self, request: Request) -> bool:
        texts = [*_strings(request), *_strings(_parsed_arguments(request))]
        return any(token.content in text for token in self._controls for text in texts)


def _codes(text: str) -> list[int]:
    return list(map(ord, text))


def _strings(value: object) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _strings(list(value))
        yield from _strings(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _parsed_arguments(request: Request) -> list[object]:
    """Of calls that the row has as JSON text, which may write a control token with escapes."""
    calls = [call for message in request.get("messages", []) for call in message.get("tool_calls", [])]
    given = [call["function"]["arguments"] for call in calls]
    return [json.loads(arguments) for arguments in given if isinstance(arguments, str)]


def ids_by_row(block: TokenBlock, rows: Collection[Place]) -> dict[Place, Pieces]:
    """Of those of the rows that have documents in the block."""
    documents: dict[Piece, Ids] = {}
    for document in np.flatnonzero(np.isin(block.positions, [position for _, position in rows])).tolist():
        place = int(block.sources[document]), int(block.positions[document])
        if place in rows:
            documents[*place, int(block.pieces[document])] = block.input_ids[block.span(document)]
    return pieces_by_row(documents)


def pieces_by_row(documents: Mapping[Piece, Ids]) -> dict[Place, Pieces]:
    rows: dict[Place, Pieces] = {}
    for source, position, piece in sorted(documents):
        rows.setdefault((source, position), []).append(documents[source, position, piece])
    return rows


def _joined(pieces: Pieces) -> Ids:
    """The one text that was split: each piece but the first begins with the last token of the one before."""
    return np.concatenate([pieces[0], *(ids[1:] for ids in pieces[1:])])


def add_comparison(certificate: Certificate, place: Place, seen: Comparison | None) -> Certificate:
    """The certificate with one more row."""
    if seen is None:
        return certificate.model_copy(update={"not_comparable": certificate.not_comparable + 1})
    update: dict[str, object] = {
        "compared": certificate.compared + 1,
        "passed": certificate.passed + (seen.index is None),
        "with_control_text": certificate.with_control_text + seen.with_control_text,
    }
    if seen.index is not None and certificate.first_difference is None:
        update["first_difference"] = _difference(certificate, place, seen, seen.index)
    return certificate.model_copy(update=update)


def _difference(certificate: Certificate, place: Place, seen: Comparison, index: int) -> Difference:
    """Text itself is never kept."""
    shown = slice(index, index + SHOWN if certificate.level == "ids" else index)
    return Difference(
        source=place[0], position=place[1], index=index, expected=seen.expected[shown], found=seen.found[shown]
    )
