"""A file's uncompressed bytes, in chunks, in bounded memory."""

import shlex
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

import pyarrow as pa

from pipeline.blocks import Compression, SourceFile
from pipeline.readers.files import open_file, reading
from schemas.errors import DatasetError

CHUNK = 2**18
"""Bytes asked for at a time: with what is made of them they stay in a core's cache."""
MAX_EXPANSION = 1000
"""Uncompressed bytes that may come of a compressed one: above what gzip can do with text, and ten times what zstd makes
of chats that differ by a number. A bomb has 1000 to 32,000."""
ANY_EXPANSION = 2**30
"""So many bytes may come out of any file."""
DECOMPRESS: dict[Compression, str] = {"gzip": "gzip -dc", "zstd": "zstd -dc --long=31"}


def read_chunks(file: SourceFile) -> Iterator[bytes]:
    """Raises SourceChanged, and DatasetError for compressed data that is damaged, cut short or a bomb."""
    with open_file(file) as raw:
        if file.compression is None:
            yield from chunks_of(raw, CHUNK)
            return
        with reading(file, OSError):
            # Arrow gives no more than is asked for, however far the data expands; it reads all members and frames,
            # and refuses zstd windows above 128 MiB, as the zstd command does without --long.
            most = max(MAX_EXPANSION * file.size, ANY_EXPANSION)
            for chunk in chunks_of(pa.CompressedInputStream(raw, file.compression), CHUNK):
                most -= len(chunk)
                if most < 0:
                    raise DatasetError(_bomb(file, file.compression))
                yield chunk


def _bomb(file: SourceFile, compression: Compression) -> str:
    return (
        f"{file.url}: its {file.size} bytes expand more than {MAX_EXPANSION} times, so it may be made to expand "
        f"without end; if you trust it, give the plain file: {DECOMPRESS[compression]} {shlex.quote(file.url)} > FILE"
    )


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
