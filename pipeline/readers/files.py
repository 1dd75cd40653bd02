"""Source files on any fsspec store: opened only while they are what the plan saw."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, BinaryIO, NamedTuple, cast

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from pipeline.blocks import SourceFile
from schemas.errors import DatasetError

_ETAG = ("ETag", "etag")
_MTIME = ("LastModified", "last_modified", "mtime", "updated", "created")


class SourceChanged(DatasetError):
    """A source file is no longer the one that was planned."""


class Stamp(NamedTuple):
    """What tells a changed file: its size in bytes, and an etag or else a time of modification."""

    size: int
    etag: str | None
    mtime: str | None


def read_stamp(fs: AbstractFileSystem, path: str) -> Stamp:
    """Raises OSError where there is no such file, DatasetError where the store does not know its size."""
    if isinstance(fs, LocalFileSystem):
        status = os.stat(path)
        return Stamp(status.st_size, None, str(status.st_mtime_ns))
    info = fs.info(path)
    if info.get("size") is None:
        raise DatasetError(f"{path}: the store does not tell its size; copy the file to a disk or an object store")
    etag = _first(info, _ETAG)
    return Stamp(int(info["size"]), etag and etag.strip('"'), None if etag else _first(info, _MTIME))


def _first(info: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    found = next((info[key] for key in keys if info.get(key) is not None), None)
    if isinstance(found, datetime):
        return found.isoformat()
    return None if found is None else str(found)


def check_unchanged(file: SourceFile) -> None:
    """Raises SourceChanged where the file is gone or is not what the plan saw."""
    fs, path = url_to_fs(file.place)
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


def open_file(file: SourceFile) -> BinaryIO:
    """The file's own bytes, still compressed. Raises SourceChanged."""
    check_unchanged(file)
    fs, path = url_to_fs(file.place)
    return cast(BinaryIO, fs.open(path, "rb"))


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
            f"{file.url}: damaged or cut short, or not {kind} at all: {error}; replace the file, or leave it out"
        ) from error
