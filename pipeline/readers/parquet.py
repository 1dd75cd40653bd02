"""Parquet, by row groups; sizes are the uncompressed ones of the footer."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.blocks import SourceFile, Stretch
from pipeline.readers.files import open_file, reading
from pipeline.readers.records import Records
from pipeline.readers.table_checks import TABLE_ERRORS, check_structure
from pipeline.readers.table_rows import batch_records

_BATCH_BYTES = 2**22
"""So much is decoded at a time, by the footer's sizes."""
_BATCH_ROWS = 2**10


def row_group_bytes(file: SourceFile) -> list[int]:
    """Uncompressed bytes of each row group. Raises DatasetError for a file whose footer cannot be read."""
    with open_file(file) as stream, reading(file, *TABLE_ERRORS):
        footer = pq.ParquetFile(stream).metadata
        return [footer.row_group(group).total_byte_size for group in range(footer.num_row_groups)]


def read_parquet(stretch: Stretch, max_line_bytes: int) -> Iterator[Records]:
    """Every row counts the same share of its row group's bytes. Raises DatasetError for a damaged file."""
    with open_file(stretch.file) as stream, reading(stretch.file, *TABLE_ERRORS):
        table = pq.ParquetFile(stream)
        groups = [table.metadata.row_group(group) for group in range(stretch.end)]
        position = sum(group.num_rows for group in groups[: stretch.start])
        for group in range(stretch.start, stretch.end):
            share = groups[group].total_byte_size // max(groups[group].num_rows, 1)
            rows = max(min(_BATCH_BYTES // max(share, 1), _BATCH_ROWS), 1)
            for batch in table.iter_batches(rows, row_groups=[group]):
                check_structure(batch)
                yield from batch_records(batch, position, share)
                position += batch.num_rows
