"""The documents of a block, tokenized together wherever sheets can write them; the reference is `DocumentTokenizer`."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pipeline.blocks import DocumentBlock
from pipeline.chat.formatter import ChatFormatter
from pipeline.chat.layout import DocumentLayout
from pipeline.columnar.audit import audit_columns
from pipeline.columnar.choose import NO_SHEET, SheetChooser
from pipeline.columnar.documents import Assigned, Indices, SheetEncoder
from pipeline.columnar.layout_sheet import LayoutSheets
from pipeline.columnar.rules import Rules, keep_documents
from pipeline.columnar.sheet import Sheet
from pipeline.columnar.sheet_tokens import Layouts, SheetTokens, nothing_written
from pipeline.columnar.text_sheet import text_sheet
from pipeline.columnar.tokens import BytesDiffer
from pipeline.columnar.written import write_documents
from pipeline.config import ControlMode
from pipeline.convert.plain import TEXT, MixedDocuments, PlainRows, PlainRowsBuilder
from pipeline.encoders.base import Encoder, EncodingFailed
from pipeline.encoders.batch import BatchEncoder, Strings
from pipeline.encoders.compare import EngineDifference, compare_ids
from pipeline.turns import GENERATED, IS_TEXT
from schemas.channels import LEGAL
from schemas.conversation import Conversation, Document
from schemas.rejects import Reason, RejectRow

LayOut = Callable[[Conversation], list[DocumentLayout]]
"""Raises RejectRow."""


class SheetTokenizer:
    def __init__(
        self,
        formatter: ChatFormatter | None,
        encoder: Encoder,
        batch: BatchEncoder,
        rules: Rules,
        lay_out: LayOut,
        *,
        mode: ControlMode,
    ) -> None:
        """`encoder` is the reference of `batch`, with the control tokens chosen; `mode` says what becomes of those in a
        row's text."""
        self._rules = rules
        self._lay_out = lay_out
        self._end_ids = formatter.end_ids if formatter else ()
        self._trains_others = bool((rules.trained & LEGAL & ~GENERATED & ~IS_TEXT).any())
        self._parses = mode == "parse"
        self._reference = encoder
        self._encoder = SheetEncoder(encoder, batch, literal=mode == "literal")
        self._chooser = SheetChooser(formatter) if formatter and not formatter.splits_history else None
        self._layouts = LayoutSheets(encoder)
        self._text = text_sheet(encoder)

    def tokenize(self, block: DocumentBlock) -> SheetTokens:
        plain = block.documents.plain if isinstance(block.documents, MixedDocuments) else PlainRowsBuilder().build()
        draft = _Draft()
        self._assign_plain(plain, draft)
        self._assign_others(block, plain, draft)
        assigned = draft.assigned()
        everything: Layouts = dict.fromkeys(range(len(block.documents)))
        try:
            tokens, doubtful = self._encoder.encode(assigned, plain)
        except EncodingFailed:  # the reference says which row it is
            return nothing_written(everything)
        except BytesDiffer as error:
            row = int(assigned.row[error.document])
            place = block.sources[row], block.positions[row]
            return nothing_written(everything, self.compare_engines(block.documents[row], place))
        trained = np.flatnonzero(self._rules.trained[tokens.channel])
        kept = keep_documents(assigned, tokens, trained, doubtful, self._rules)
        draft.left |= dict.fromkeys(kept.left.tolist())
        rows = assigned.row[kept.of]
        places = np.array(block.sources, np.int64)[rows], np.array(block.positions, np.int64)[rows]
        if self._trains_others:
            trained = trained[GENERATED[tokens.channel[trained]]]
        turns = audit_columns(tokens, kept, places, trained, self._end_ids)
        return SheetTokens(tokens, kept, rows, draft.left, draft.rejects + kept.rejects, turns)

    def compare_engines(self, document: Document, place: tuple[int, int]) -> EngineDifference | None:
        """What the engine makes otherwise than the reference of the stretches of text that a document consists of."""
        reference = self._reference.batch()
        assert reference is not None
        if isinstance(document, Conversation):
            try:
                sheets = [self._layouts.make(layout) for layout in self._lay_out(document)]
            except RejectRow:  # so is the reference's
                return None
            texts: list[bytes] = []
        else:
            sheets, texts = [self._text], [document.text.encode()]
        known = [sheet for sheet in sheets if sheet]
        written = write_documents(known, np.arange(len(known)), np.zeros(len(known), np.int64), texts)
        strings = Strings(written.data, written.segment_starts)
        return compare_ids(strings, [place] * len(strings), self._encoder.batch.encode(strings), reference)

    def _assign_plain(self, plain: PlainRows, draft: "_Draft") -> None:
        sheets, chosen = self._chooser.choose(plain) if self._chooser else ([], np.full(len(plain), NO_SHEET))
        is_text = np.array([shape == TEXT for shape in plain.shapes], np.bool_)[plain.shape]
        chosen = np.where(is_text, len(sheets), chosen)
        draft.sheets += [*sheets, self._text]
        written = chosen != NO_SHEET
        draft.add(chosen[written], plain.index[written], plain.first[:-1][written], is_text[written])

    def _assign_others(self, block: DocumentBlock, plain: PlainRows, draft: "_Draft") -> None:
        for row in np.setdiff1d(np.arange(len(block.documents)), draft.rows()).tolist():
            document = block.documents[row]
            if self._parses or not isinstance(document, Conversation):
                draft.left[row] = None
                continue
            try:
                layouts = self._lay_out(document)
            except RejectRow as reject:
                draft.rejects.append((row, reject.reason, reject.detail))
                continue
            sheets = [sheet for layout in layouts if (sheet := self._layouts.make(layout))]
            if len(sheets) < len(layouts):
                draft.left[row] = layouts
                continue
            numbers = np.arange(len(draft.sheets), len(draft.sheets) + len(sheets))
            draft.sheets += sheets
            draft.add(numbers, np.full(len(sheets), row), np.zeros(len(sheets), np.int64), np.zeros(len(sheets), bool))


class _Draft:
    def __init__(self) -> None:
        self.sheets: list[Sheet] = []
        self.left: dict[int, list[DocumentLayout] | None] = {}
        self.rejects: list[tuple[int, Reason, str]] = []
        self._columns: list[tuple[npt.NDArray[np.int64], ...]] = []

    def add(self, sheet: Indices, row: Indices, first: Indices, is_text: npt.NDArray[np.bool_]) -> None:
        self._columns.append((sheet, row, first, is_text.astype(np.int64)))

    def rows(self) -> Indices:
        return np.concatenate([row for _, row, _, _ in self._columns])

    def assigned(self) -> Assigned:
        sheet, row, first, is_text = (np.concatenate(column) for column in zip(*self._columns, strict=True))
        order = np.argsort(row, kind="stable")
        return Assigned(self.sheets, sheet[order], row[order], first[order], is_text[order].astype(np.bool_))
