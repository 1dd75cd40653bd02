"""A unit's rows, in blocks."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

from pipeline.blocks import BlockKey, FileFormat, RowBlock, Stretch, Unit
from pipeline.readers.arrow import read_arrow
from pipeline.readers.csv_rows import read_csv
from pipeline.readers.json_array import read_json_array
from pipeline.readers.jsonl import read_jsonl
from pipeline.readers.parquet import read_parquet
from pipeline.readers.record import Record
from pipeline.readers.text import read_text
from schemas.rejects import Reject, RejectRow

_READERS: dict[FileFormat, Callable[[Stretch, int], Iterator[Record]]] = {
    "jsonl": read_jsonl,
    "json": read_json_array,
    "parquet": read_parquet,
    "arrow": read_arrow,
    "csv": read_csv,
    "text": read_text,
}


def never(block: int) -> bool:
    return False


def read_blocks(
    unit: Unit, block_bytes: int, max_line_bytes: int, skip: Callable[[int], bool] = never
) -> Iterator[RowBlock]:
    """The unit's blocks, numbered from 0; a block ends with the row that brings it to `block_bytes` of uncompressed
    input. Blocks that `skip` says yes to are not parsed and not yielded. A unit without rows gives one empty block.

    Raises SourceChanged where a file is no longer what the plan saw, DatasetError where it is damaged.
    """
    block, skipped = _new_block(unit, 0, skip)
    for source, record in islice(_read_unit(unit, max_line_bytes), unit.limit):
        if block.bytes >= block_bytes:
            if not skipped:
                yield block
            block, skipped = _new_block(unit, block.key.block + 1, skip)
        block.bytes += record.size
        if not skipped:
            _add_row(block, source, record)
    if not skipped:
        block.key = replace(block.key, last=True)
        yield block


def _new_block(unit: Unit, number: int, skip: Callable[[int], bool]) -> tuple[RowBlock, bool]:
    return RowBlock(BlockKey(unit.index, number, last=False)), skip(number)


def _read_unit(unit: Unit, max_line_bytes: int) -> Iterator[tuple[int, Record]]:
    for stretch in unit.stretches:
        for record in _READERS[stretch.file.format](stretch, max_line_bytes):
            yield stretch.source, record


def _add_row(block: RowBlock, source: int, record: Record) -> None:
    try:
        row = record.build()
    except RejectRow as reject:
        block.rejects.append(Reject(source, record.position, reject.reason, reject.detail))
        return
    block.sources.append(source)
    block.positions.append(record.position)
    block.rows.append(row)
