"""Parquet, by row groups; sizes are the uncompressed ones of the footer."""

from collections.abc import Iterator
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.blocks import SourceFile, Stretch
from pipeline.readers.files import open_file, reading
from pipeline.readers.records import Records
from pipeline.readers.table_checks import TABLE_ERRORS, check_structure
from pipeline.readers.table_columns import decoded_bytes
from pipeline.readers.table_rows import batch_records
from schemas.errors import DatasetError

_BATCH_BYTES = 2**22
"""So much is decoded at a time."""
_BATCH_ROWS = 2**10
_FIRST_ROWS = 8


def row_group_bytes(file: SourceFile) -> list[int]:
    """Uncompressed bytes of each row group. Raises DatasetError for a file whose footer cannot be read."""
    with open_file(file) as stream, reading(file, *TABLE_ERRORS):
        footer = pq.ParquetFile(stream).metadata
        return [footer.row_group(group).total_byte_size for group in range(footer.num_row_groups)]


def read_parquet(stretch: Stretch, max_line_bytes: int) -> Iterator[Records]:
    """Every row counts the same share of its batch's bytes, as decoded: the footer's sizes are those of the encoding,
    which has a text that all rows share but once. Raises DatasetError for a damaged file, and for rows that are longer
    than `max_line_bytes` by the footer, before they are read."""
    with open_file(stretch.file) as stream, reading(stretch.file, *TABLE_ERRORS):
        table = pq.ParquetFile(stream)
        groups = [table.metadata.row_group(group) for group in range(stretch.end)]
        position = sum(group.num_rows for group in groups[: stretch.start])
        for group in range(stretch.start, stretch.end):
            share = groups[group].total_byte_size // max(groups[group].num_rows, 1)
            if share > max_line_bytes:
                raise DatasetError(
                    f"{stretch.file.url}: the rows of row group {group} have {share} bytes each by the footer, "
                    f"max_line_bytes is {max_line_bytes}; raise it, or leave the file out"
                )
            for batch in _decode(table, group, share):
                check_structure(batch)
                yield from batch_records(batch, position, max_line_bytes)
                position += batch.num_rows


def _decode(table: pq.ParquetFile, group: int, share: int) -> Iterator[pa.RecordBatch]:
    """Batches of about _BATCH_BYTES, by the footer's size of a row and by what the first rows come to."""
    for first in islice(table.iter_batches(_FIRST_ROWS, row_groups=[group]), 1):
        share = max(share, decoded_bytes(first) // max(first.num_rows, 1), 1)
        yield from table.iter_batches(max(min(_BATCH_BYTES // share, _BATCH_ROWS), 1), row_groups=[group])
