"""The rows of a block to its documents."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

from pipeline.blocks import DocumentBlock, RowBlock
from pipeline.convert.converter import Converter, Row
from pipeline.convert.plain import MixedDocuments, PlainRow, PlainRowsBuilder, Shape
from pipeline.convert.plain_table import PlainTable
from pipeline.readers.table_rows import TableRows
from schemas.conversation import Document
from schemas.rejects import Reject, RejectRow

PlainReader: TypeAlias = Callable[[Row], PlainRow | None]
FEW = 16
"""One row in so many, or fewer: to build them by themselves is faster than all of them together."""

Plain: TypeAlias = tuple[Shape, Sequence[bytes]]


def convert_rows(
    block: RowBlock, converters: Sequence[Converter], settings_of_source: Mapping[int, int]
) -> DocumentBlock:
    """Each row gives a document or a reject. `settings_of_source` has the index of a source's converter."""
    made = DocumentBlock(block.key, rejects=list(block.rejects), bytes=block.bytes)
    listed: list[Document | None] = []
    plain = PlainRowsBuilder()
    settings = [settings_of_source[source] for source in block.sources]
    tables = _tables(block, converters, settings)
    rows = _rows(block, settings, tables)
    for row, found in enumerate(_plain_rows(rows, converters, settings, tables)):
        document = None
        if found is not None:
            plain.add(len(listed), *found)
        else:
            try:
                document = converters[settings[row]](rows[row])
            except RejectRow as error:
                made.rejects.append(Reject(block.sources[row], block.positions[row], error.reason, error.detail))
                continue
        made.sources.append(block.sources[row])
        made.positions.append(block.positions[row])
        listed.append(document)
    made.documents = MixedDocuments(listed, plain.build())
    return made


def _tables(block: RowBlock, converters: Sequence[Converter], settings: Sequence[int]) -> dict[int, PlainTable | None]:
    """By setting, what a table's rows are as far as they are plain; nothing where the rows are no table."""
    if not isinstance(block.rows, TableRows):
        return {}
    found = {setting: getattr(converters[setting], "plain_table", None) for setting in set(settings)}
    return {setting: read(block.rows) if read else None for setting, read in found.items()}


def _rows(block: RowBlock, settings: Sequence[int], tables: Mapping[int, PlainTable | None]) -> Sequence[Row]:
    """The rows of a table are built together, unless few of them are needed."""
    if not tables:
        return block.rows
    needed = sum(not table or table.shapes[row] is None for row, table in enumerate(map(tables.get, settings)))
    return list(block.rows) if needed * FEW > len(settings) else block.rows


def _plain_rows(
    rows: Sequence[Row],
    converters: Sequence[Converter],
    settings: Sequence[int],
    tables: Mapping[int, PlainTable | None],
) -> Iterator[Plain | None]:
    """What each row is if it is plain."""
    readers: list[PlainReader | None] = [getattr(converter, "plain", None) for converter in converters]
    for row, setting in enumerate(settings):
        table, read = tables.get(setting), readers[setting]
        shape = table.shapes[row] if table else None
        if table and shape is not None:
            yield shape, table.texts[table.first[row] : table.first[row + 1]]
        else:
            yield _encoded(read(rows[row])) if read and not table else None


def _encoded(row: PlainRow | None) -> Plain | None:
    """None also for a lone surrogate: the converter says where it is."""
    try:
        return row and (row.shape, [text.encode() for text in row.texts])
    except UnicodeEncodeError:
        return None
