"""Arrow IPC: the file format, and the stream format that `datasets` saves. Told apart by the file's first bytes."""

from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa

from pipeline.blocks import Stretch
from pipeline.readers.files import open_file, reading
from pipeline.readers.records import Records
from pipeline.readers.table_checks import TABLE_ERRORS, check_structure
from pipeline.readers.table_rows import batch_records

_MAGIC = b"ARROW1"


def read_arrow(stretch: Stretch, max_line_bytes: int) -> Iterator[Records]:
    """Every row counts the same share of its record batch's bytes. Raises DatasetError for a damaged file."""
    position = 0
    with open_file(stretch.file) as stream, reading(stretch.file, *TABLE_ERRORS):
        for batch in _batches(stream):
            check_structure(batch)
            yield from batch_records(batch, position, max_line_bytes)
            position += batch.num_rows


def _batches(stream: BinaryIO) -> Iterator[pa.RecordBatch]:
    magic = stream.read(len(_MAGIC))
    stream.seek(0)
    if magic != _MAGIC:
        yield from pa.ipc.open_stream(stream)
        return
    reader = pa.ipc.open_file(stream)
    for index in range(reader.num_record_batches):
        yield reader.get_batch(index)
