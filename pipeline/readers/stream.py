"""A file's uncompressed bytes, in chunks, in bounded memory."""

import gzip
import zlib
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

import zstandard

from pipeline.blocks import SourceFile
from pipeline.readers.files import open_file, reading

CHUNK = 2**20
"""Bytes asked for at a time."""

_ZSTD_FEED = 2**10  # zstd may expand 32,000 times, and a decompressor gives all that it was fed at once
_ZSTD_WINDOW = 2**27  # what the zstd command takes without --long


def read_chunks(file: SourceFile) -> Iterator[bytes]:
    """Raises SourceChanged, and DatasetError for compressed data that is damaged or cut short."""
    with open_file(file) as raw, reading(file, EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError):
        yield from _decompress(file, raw)


def _decompress(file: SourceFile, raw: BinaryIO) -> Iterator[bytes]:
    if file.compression == "zstd":
        return _joined(_read_zstd(raw))
    stream = gzip.GzipFile(fileobj=raw) if file.compression == "gzip" else raw
    return chunks_of(stream, CHUNK)


def chunks_of(stream: BinaryIO | gzip.GzipFile, size: int) -> Iterator[bytes]:
    return iter(partial(stream.read, size), b"")


def _read_zstd(raw: BinaryIO) -> Iterator[bytes]:
    """All frames, one after the other. Raises EOFError where the last one is cut short."""
    context = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    frame = None
    for chunk in chunks_of(raw, CHUNK):
        for at in range(0, len(chunk), _ZSTD_FEED):
            feed = chunk[at : at + _ZSTD_FEED]
            while feed:
                frame = frame or context.decompressobj()
                yield frame.decompress(feed)
                feed = frame.unused_data
                frame = None if frame.eof else frame
    if frame:
        raise EOFError("the data ends within a frame")


def _joined(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces in chunks of CHUNK bytes and more."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= CHUNK:
            yield b"".join(held)
            held, size = [], 0
    if size:
        yield b"".join(held)


def read_at_most(file: SourceFile, limit: int) -> bytes | None:
    """The whole content, or None where it has more than `limit` bytes."""
    held = bytearray()
    for chunk in read_chunks(file):
        held += chunk
        if len(held) > limit:
            return None
    return bytes(held)
