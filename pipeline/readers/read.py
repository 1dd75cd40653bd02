"""A unit's rows, in blocks."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, chain
from sys import maxsize

from pipeline.blocks import BlockKey, FileFormat, RowBlock, Stretch, Unit
from pipeline.readers.arrow import read_arrow
from pipeline.readers.csv_rows import read_csv
from pipeline.readers.files import check_unchanged
from pipeline.readers.json_array import read_json_array
from pipeline.readers.jsonl import read_jsonl
from pipeline.readers.parquet import read_parquet
from pipeline.readers.records import Records, Row
from pipeline.readers.table_rows import TableRows
from pipeline.readers.text import read_text
from schemas.rejects import Reject

_READERS: dict[FileFormat, Callable[[Stretch, int], Iterator[Records]]] = {
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
    block = _OpenBlock(0, skip)
    for source, records in _read_unit(unit, max_line_bytes):
        ends = list(accumulate(records.sizes, initial=0))
        start, rows = 0, len(records.sizes)
        while start < rows:
            if block.bytes >= block_bytes:
                if not block.skipped:
                    block.check_sources(unit)
                    yield block.close(unit, last=False)
                block = _OpenBlock(block.number + 1, skip)
            stop = bisect_left(ends, ends[start] + block_bytes - block.bytes, start + 1, rows)
            block.bytes += ends[stop] - ends[start]
            if not block.skipped:
                block.add(source, records, start, stop)
            start = stop
    if not block.skipped:
        if unit.limit is not None:  # its last file was not read to its end, and not looked at there
            block.check_sources(unit)
        yield block.close(unit, last=True)


def _read_unit(unit: Unit, max_line_bytes: int) -> Iterator[tuple[int, Records]]:
    """The unit's rows up to its limit, by source."""
    left = maxsize if unit.limit is None else unit.limit
    for stretch in unit.stretches:
        for records in _READERS[stretch.file.format](stretch, max_line_bytes):
            yield stretch.source, Records(records.positions[:left], records.sizes[:left], records.build)
            left -= len(records.sizes)
            if left <= 0:
                return


class _OpenBlock:
    """A block to which rows are being added."""

    def __init__(self, number: int, skip: Callable[[int], bool]) -> None:
        self.number = number
        self.skipped = skip(number)
        self.bytes = 0
        self._read: set[int] = set()
        self._sources: list[int] = []
        self._positions: list[int] = []
        self._rows: list[Sequence[Row]] = []
        self._rejects: list[Reject] = []

    def add(self, source: int, records: Records, start: int, stop: int) -> None:
        self._read.add(source)
        built = records.build(start, stop)
        positions = records.positions[start:stop]
        for index, reject in built.rejects.items():
            self._rejects.append(Reject(source, positions[index], reject.reason, reject.detail))
        if built.rejects:
            positions = [position for index, position in enumerate(positions) if index not in built.rejects]
        self._sources += [source] * len(positions)
        self._positions += positions
        self._rows.append(built.rows)

    def check_sources(self, unit: Unit) -> None:
        """Raises SourceChanged where a file is not what it was while the block was read: it would be kept."""
        for stretch in unit.stretches:
            if stretch.source in self._read:
                check_unchanged(stretch.file)

    def close(self, unit: Unit, *, last: bool) -> RowBlock:
        key = BlockKey(unit.index, self.number, last)
        return RowBlock(key, self._sources, self._positions, _join(self._rows), self._rejects, self.bytes)


def _join(parts: Sequence[Sequence[Row]]) -> Sequence[Row]:
    tables = [part for part in parts if isinstance(part, TableRows)]
    if tables and len(tables) == len(parts):
        return TableRows([batch for part in tables for batch in part.batches])
    return list(chain.from_iterable(parts))
