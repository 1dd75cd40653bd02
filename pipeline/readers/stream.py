"""A file's uncompressed bytes, in chunks, in bounded memory."""

from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

import pyarrow as pa

from pipeline.blocks import SourceFile
from pipeline.readers.files import open_file, reading

CHUNK = 2**18
"""Bytes asked for at a time: with what is made of them they stay in a core's cache."""


def read_chunks(file: SourceFile) -> Iterator[bytes]:
    """Raises SourceChanged, and DatasetError for compressed data that is damaged or cut short."""
    with open_file(file) as raw:
        if file.compression is None:
            yield from chunks_of(raw, CHUNK)
            return
        with reading(file, OSError):
            # Arrow gives no more than is asked for, however far the data expands; it reads all members and frames,
            # and refuses zstd windows above 128 MiB, as the zstd command does without --long.
            yield from chunks_of(pa.CompressedInputStream(raw, file.compression), CHUNK)


def chunks_of(stream: BinaryIO | pa.NativeFile, size: int) -> Iterator[bytes]:
    return iter(partial(stream.read, size), b"")


def read_at_most(file: SourceFile, limit: int) -> bytes | None:
    """The whole content, or None where it has more than `limit` bytes."""
    held = bytearray()
    for chunk in read_chunks(file):
        held += chunk
        if len(held) > limit:
            return None
    return bytes(held)
