"""The rows of a block to its documents."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from pipeline.blocks import DocumentBlock, RowBlock
from pipeline.convert.converter import Converter, Row
from pipeline.convert.plain import MixedDocuments, PlainRow, PlainRowsBuilder
from schemas.conversation import Document
from schemas.rejects import Reject, RejectRow

PlainReader: TypeAlias = Callable[[Row], PlainRow | None]


def convert_rows(block: RowBlock, converters: Sequence[Converter], settings_of_source: Sequence[int]) -> DocumentBlock:
    """Each row gives a document or a reject. `settings_of_source` has the index of a source's converter."""
    readers: list[PlainReader | None] = [getattr(converter, "plain", None) for converter in converters]
    try:
        return _convert(block, converters, readers, settings_of_source)
    except UnicodeEncodeError:  # the converters say which row has a lone surrogate
        return _convert(block, converters, [None] * len(converters), settings_of_source)


def _convert(
    block: RowBlock,
    converters: Sequence[Converter],
    readers: Sequence[PlainReader | None],
    settings_of_source: Sequence[int],
) -> DocumentBlock:
    made = DocumentBlock(block.key, rejects=list(block.rejects), bytes=block.bytes)
    listed: list[Document | None] = []
    plain = PlainRowsBuilder()
    for source, position, row in zip(block.sources, block.positions, block.rows, strict=True):
        setting = settings_of_source[source]
        read = readers[setting]
        found = read(row) if read else None
        document = None
        if found is not None:
            plain.add(len(listed), found)
        else:
            try:
                document = converters[setting](row)
            except RejectRow as error:
                made.rejects.append(Reject(source, position, error.reason, error.detail))
                continue
        made.sources.append(source)
        made.positions.append(position)
        listed.append(document)
    made.documents = MixedDocuments(listed, plain.build())
    return made
