"""Source files on any fsspec store: opened only while they are what the plan saw."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, BinaryIO, NamedTuple, cast

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from pipeline.blocks import SourceFile
from schemas.errors import DatasetError
from schemas.file_system import find_file_system
from schemas.range_file import open_ranges
from schemas.retry import call_store
from schemas.store import MODIFIED, read_range

_ETAG = ("ETag", "etag", "blob_id")  # the last is Git's name for the content, at Hugging Face
_READ_BY_THEIR_OWN = {"http", "https", "hf"}
"""Where a range may not be had, or only by fetching more than it."""


class SourceChanged(DatasetError):
    """A source file is no longer the one that was planned."""


class Stamp(NamedTuple):
    """What tells a changed file: its size in bytes, and an etag or else a time of modification."""

    size: int
    etag: str | None
    mtime: str | None


def read_stamp(fs: AbstractFileSystem, path: str, listed: Mapping[str, Any] | None = None) -> Stamp:
    """`listed` is what a listing told of the file: with an etag in it the store is not asked again. Raises OSError
    where there is no such file, DatasetError where the store does not know its size."""
    if isinstance(fs, LocalFileSystem):
        status = os.stat(path)
        return Stamp(status.st_size, None, str(status.st_mtime_ns))
    info = listed if listed and _first(listed, _ETAG) else call_store(path, lambda: fs.info(path))
    if info.get("size") is None:
        raise DatasetError(f"{path}: the store does not tell its size; copy the file to a disk or an object store")
    etag = _first(info, _ETAG)
    return Stamp(int(info["size"]), etag and etag.strip('"'), None if etag else _first(info, MODIFIED))


def _first(info: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    found = next((info[key] for key in keys if info.get(key) is not None), None)
    if isinstance(found, datetime):
        return found.isoformat()
    return None if found is None else str(found)


def check_unchanged(file: SourceFile) -> None:
    """Raises SourceChanged where the file is gone or is not what the plan saw."""
    fs, path = find_file_system(file.place, file.profile)
    fs.invalidate_cache()
    planned = Stamp(file.size, file.etag, file.mtime)
    mend = "put the planned file back, or stop what writes to it and build again"
    try:
        seen = read_stamp(fs, path)
    except FileNotFoundError as error:
        raise SourceChanged(f"{file.url} is gone; planned was {_describe(planned)}; {mend}") from error
    if seen != planned:
        raise SourceChanged(
            f"{file.url} changed: planned was {_describe(planned)}, now it is {_describe(seen)}; {mend}"
        )


def _describe(stamp: Stamp) -> str:
    mark = f"etag {stamp.etag}" if stamp.etag else f"mtime {stamp.mtime}"
    return f"{stamp.size} bytes with {mark}"


@contextmanager
def open_file(file: SourceFile, expected_end: int | None = None) -> Iterator[BinaryIO]:
    """The file's own bytes, still compressed; hardly any are read past `expected_end`. Raises SourceChanged, also where
    the file has changed while it was read."""
    check_unchanged(file)
    try:
        with _open(file, expected_end) as stream:
            yield stream
    except (DatasetError, OSError):  # of a file that is another by now it says little
        check_unchanged(file)
        raise
    check_unchanged(file)


def _open(file: SourceFile, expected_end: int | None) -> BinaryIO:
    fs, path = find_file_system(file.place, file.profile)
    if isinstance(fs, LocalFileSystem):
        return cast(BinaryIO, fs.open(path, "rb"))
    if _READ_BY_THEIR_OWN.intersection(fs.protocol):
        return cast(BinaryIO, call_store(file.url, lambda: fs.open(path, "rb")))

    def read(start: int, end: int) -> bytes:
        return call_store(file.url, lambda: read_range(fs, path, start, end))

    return open_ranges(read, file.size, expected_end)


@contextmanager
def reading(file: SourceFile, *errors: type[Exception]) -> Iterator[None]:
    """Turns a library's complaint about the file's bytes into a DatasetError that names the file. Arrow's are OSErrors,
    too, but have no errno: what has one comes of the disk or the store."""
    try:
        yield
    except errors as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        kind = file.compression or file.format
        raise DatasetError(
            f"{file.url}: damaged or cut short, or not {kind} at all: {error or type(error).__name__}; "
            "replace the file, or leave it out"
        ) from error
