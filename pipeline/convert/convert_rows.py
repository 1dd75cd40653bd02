"""The rows of a block to its documents."""

from collections.abc import Sequence

from pipeline.blocks import DocumentBlock, RowBlock
from pipeline.convert.converter import Converter
from schemas.rejects import Reject, RejectRow


def convert_rows(block: RowBlock, converters: Sequence[Converter], settings_of_source: Sequence[int]) -> DocumentBlock:
    """Each row gives a document or a reject. `settings_of_source` has the index of a source's converter."""
    made = DocumentBlock(block.key, rejects=list(block.rejects), bytes=block.bytes)
    for source, position, row in zip(block.sources, block.positions, block.rows, strict=True):
        try:
            document = converters[settings_of_source[source]](row)
        except RejectRow as error:
            made.rejects.append(Reject(source, position, error.reason, error.detail))
            continue
        made.sources.append(source)
        made.positions.append(position)
        made.documents.append(document)
    return made
