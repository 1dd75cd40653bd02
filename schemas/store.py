"""Files on any fsspec store: what both houses need to read and write a data set."""

import contextlib
import hashlib
import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar, cast

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from schemas.errors import DatasetError, StoreError
from schemas.file_system import find_file_system
from schemas.local_files import create_file, write_file
from schemas.range_file import open_ranges
from schemas.retry import ShortAnswer, call_store, http_status
from schemas.urls import without_secrets

Result = TypeVar("Result")

MODIFIED = ("LastModified", "last_modified", "mtime", "updated", "created")
"""The keys under which fsspec's file systems tell when a file was last written."""

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")


def check_name(name: str) -> str:
    """A name inside a data set: relative, POSIX, of safe characters. Raises ValueError for any other."""
    if not _SAFE_NAME.fullmatch(name):
        raise ValueError(f"unsafe file name {name!r} in a manifest: only relative names like shards/00000-000.arrow")
    return name


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that a listing found: its name within the folder, its bytes, when it was last written."""

    name: str
    bytes: int
    modified: datetime


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder on a store. Picklable; the file system is looked up where it is used, with the options of `profile`, a
    name in the profiles file of the machine.

    What a store refuses for a moment is asked again. Methods raise StoreError where it stays so, ConfigError where the
    store cannot be reached as it is configured.
    """

    url: str
    profile: str | None = None

    def _resolve(self, name: str) -> tuple[AbstractFileSystem, str]:
        fs, root = find_file_system(self.url, self.profile)
        return fs, posixpath.join(root.rstrip("/") or "/", name) if name else root

    def _call(self, name: str, call: Callable[[AbstractFileSystem, str], Result]) -> Result:
        fs, path = self._resolve(name)
        if isinstance(fs, LocalFileSystem):
            return call(fs, path)
        return call_store(f"{self.shown.rstrip('/')}/{name}", lambda: call(fs, path))

    @property
    def shown(self) -> str:
        """The URL as it may be shown."""
        return without_secrets(self.url)

    @property
    def is_local(self) -> bool:
        return isinstance(self._resolve("")[0], LocalFileSystem)

    def local_path(self, name: str) -> Path:
        assert self.is_local
        return Path(self._resolve(name)[1])

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError where there is no such file."""
        return self._call(name, _read_whole)

    def size(self, name: str) -> int | None:
        """The size in bytes, or None where there is no such file."""
        try:
            info = self._call(name, lambda fs, path: fs.info(path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return None if info["type"] == "directory" else int(info["size"])

    def open(self, name: str) -> BufferedReader:
        """For reading, with seeks; of a file on a store only what is read is fetched. Raises FileNotFoundError."""
        fs, path = self._resolve(name)
        if isinstance(fs, LocalFileSystem):
            return cast(BufferedReader, fs.open(path, "rb"))
        size = self.size(name)
        if size is None:
            raise FileNotFoundError(f"{self.shown}/{name}")
        return open_ranges(lambda start, end: self.read_range(name, start, end), size)

    def read_range(self, name: str, start: int, end: int) -> bytes:
        """Bytes [start, end) of a file that has so many."""
        return self._call(name, lambda fs, path: read_range(fs, path, start, end))

    def names(self, folder: str) -> list[str]:
        """Sorted names of the files right below `folder`; empty where it does not exist."""
        try:
            found = self._call(folder, lambda fs, path: _uncached(fs).ls(path, detail=False))
        except FileNotFoundError:
            return []
        return sorted(posixpath.join(folder, posixpath.basename(str(item).rstrip("/"))) for item in found)

    def files(self, folder: str) -> list[StoredFile]:
        """The files below `folder`, at any depth, sorted by name: one listing. Readers of a data set never need it."""
        root = self._resolve("")[1].rstrip("/")
        try:
            found = self._call(folder, lambda fs, path: _uncached(fs).find(path, detail=True))
        except FileNotFoundError:
            return []
        return [
            StoredFile(name.removeprefix(root).lstrip("/"), int(info["size"]), _modified(info))
            for name, info in sorted(found.items())
        ]

    def sha256(self, name: str) -> str:
        """Of a file's bytes, which are read a piece at a time. Raises FileNotFoundError where there is no such file."""
        with self.open(name) as data:
            return hashlib.file_digest(data, "sha256").hexdigest()

    def modified(self, name: str) -> datetime | None:
        """When a file was last written; None where there is no such file."""
        try:
            return _modified(self._call(name, lambda fs, path: fs.info(path)))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write a file whole or not at all, over one of the same name."""
        if self.is_local:
            write_file(str(self.local_path(name)), data)
        else:
            self._call(name, lambda fs, path: fs.pipe_file(path, bytes(data)))

    def ensure(self, name: str, data: bytes | memoryview) -> None:
        """Write a file unless it is there with these very bytes."""
        if not self._holds(name, data):
            self.write(name, data)

    def create(self, name: str, data: bytes) -> bool:
        """Create a file whole. False where another of this name exists, which then stays as it is, as far as the store
        can (docs/stores.md). True also where it is there with these very bytes: it may be our own, of a first try whose
        answer was lost. So what is created to keep others out must hold something of its own."""
        try:
            if self.is_local:
                create_file(str(self.local_path(name)), data)
            else:
                self._call(name, lambda fs, path: fs.pipe_file(path, data, mode="create"))
        except FileExistsError:
            return self._holds(name, data)
        except StoreError as error:
            if http_status(error) != 412:  # Precondition Failed, which not every library tells as FileExistsError
                raise
            return self._holds(name, data)
        return True

    def _holds(self, name: str, data: bytes | memoryview) -> bool:
        return self.size(name) == len(data) and self.read(name) == bytes(data)

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            self._call(name, lambda fs, path: fs.rm_file(path))


def read_range(fs: AbstractFileSystem, path: str, start: int, end: int) -> bytes:
    """Bytes [start, end) in one request. Raises ShortAnswer where others come."""
    data: bytes = fs.cat_file(path, start=start, end=end)
    if len(data) != end - start:
        raise ShortAnswer(f"{len(data)} bytes came for [{start}, {end})")
    return data


def _read_whole(fs: AbstractFileSystem, path: str) -> bytes:
    one_request = {"max_concurrency": 1} if "s3" in fs.protocol else {}  # else s3fs asks for the size first
    data: bytes = fs.cat_file(path, **one_request)
    return data


def _uncached(fs: AbstractFileSystem) -> AbstractFileSystem:
    fs.invalidate_cache()
    return fs


def _modified(info: dict[str, Any]) -> datetime:
    """A store that tells no time counts as just written."""
    found = next((info[key] for key in MODIFIED if info.get(key) is not None), None)
    if isinstance(found, int | float):
        return datetime.fromtimestamp(found, UTC)
    if isinstance(found, str):
        found = datetime.fromisoformat(found)
    return found if isinstance(found, datetime) else datetime.now(UTC)


def dataset_folder(url: str, profile: str | None = None) -> Folder:
    """The folder of a data set, given the folder's URL or that of its manifest."""
    if not url:
        raise DatasetError("the data set's path is empty; give the folder that holds manifest.json")
    return Folder(url.removesuffix("/").removesuffix("/manifest.json"), profile)
