"""Files on any fsspec store: what both houses need to read and write a data set."""

import contextlib
import os
import posixpath
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import get_protocol

from schemas.errors import DatasetError
from schemas.profiles import storage_options

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")


def check_name(name: str) -> str:
    """A name inside a data set: relative, POSIX, of safe characters. Raises ValueError for any other."""
    if not _SAFE_NAME.fullmatch(name):
        raise ValueError(f"unsafe file name {name!r} in a manifest: only relative names like shards/00000-000.arrow")
    return name


def without_secrets(url: str) -> str:
    """The URL without user, password and query, fit for a log or a manifest. A plain path stays as it is."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def absolute_url(url: str) -> str:
    """A local path, made absolute: a worker on a cluster has another working folder. Any other URL as it is."""
    if get_protocol(url) not in LocalFileSystem.protocol:
        return url
    path: str = LocalFileSystem._strip_protocol(url)
    return path


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that a listing found: its name within the folder, its bytes, when it was last written."""

    name: str
    bytes: int
    modified: datetime


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder on a store. Picklable; the file system is looked up where it is used, with the options of `profile`, a
    name in the profiles file of the machine."""

    url: str
    profile: str | None = None

    def _resolve(self, name: str) -> tuple[fsspec.AbstractFileSystem, str]:
        fs, root = url_to_fs(self.url, **storage_options(self.profile))
        return fs, posixpath.join(root.rstrip("/") or "/", name) if name else root

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
        fs, path = self._resolve(name)
        data: bytes = fs.cat_file(path)
        return data

    def size(self, name: str) -> int | None:
        """The size in bytes, or None where there is no such file."""
        fs, path = self._resolve(name)
        try:
            return int(fs.info(path)["size"])
        except (FileNotFoundError, NotADirectoryError):
            return None

    def open(self, name: str) -> Any:
        fs, path = self._resolve(name)
        return fs.open(path, "rb")

    def names(self, folder: str) -> list[str]:
        """Sorted names of the files right below `folder`; empty where it does not exist."""
        fs, path = self._resolve(folder)
        fs.invalidate_cache()
        try:
            found = fs.ls(path, detail=False)
        except FileNotFoundError:
            return []
        return sorted(posixpath.join(folder, posixpath.basename(str(item).rstrip("/"))) for item in found)

    def files(self, folder: str) -> list[StoredFile]:
        """The files below `folder`, at any depth, sorted by name: one listing. Readers of a data set never need it."""
        fs, path = self._resolve(folder)
        fs.invalidate_cache()
        root = self._resolve("")[1].rstrip("/")
        try:
            found = fs.find(path, detail=True)
        except FileNotFoundError:
            return []
        return [
            StoredFile(name.removeprefix(root).lstrip("/"), int(info["size"]), _modified(info))
            for name, info in sorted(found.items())
        ]

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write a file whole or not at all, over one of the same name."""
        fs, path = self._resolve(name)
        if not isinstance(fs, LocalFileSystem):
            fs.pipe_file(path, bytes(data))
            return
        temporary = _write_temporary(path, data)
        os.replace(temporary, path)
        sync_path(os.path.dirname(path))

    def ensure(self, name: str, data: bytes | memoryview) -> None:
        """Write a file unless it is there with these very bytes."""
        if self.size(name) != len(data) or self.read(name) != bytes(data):
            self.write(name, data)

    def create(self, name: str, data: bytes) -> bool:
        """Create a file whole. False where one of this name exists, which then stays as it is."""
        fs, path = self._resolve(name)
        if not isinstance(fs, LocalFileSystem):
            try:
                fs.pipe_file(path, data, mode="create")
            except FileExistsError:
                return False
            return True
        temporary = _write_temporary(path, data)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            os.unlink(temporary)
        sync_path(os.path.dirname(path))
        return True

    def remove(self, name: str) -> None:
        fs, path = self._resolve(name)
        if fs.exists(path):
            fs.rm_file(path)


def _modified(info: dict[str, Any]) -> datetime:
    """By the keys that fsspec's file systems use. A store that tells no time counts as just written."""
    keys = ("LastModified", "last_modified", "mtime", "updated", "created")
    found = next((info[key] for key in keys if info.get(key) is not None), None)
    if isinstance(found, int | float):
        return datetime.fromtimestamp(found, UTC)
    if isinstance(found, str):
        found = datetime.fromisoformat(found)
    return found if isinstance(found, datetime) else datetime.now(UTC)


def _write_temporary(path: str, data: bytes | memoryview) -> str:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{secrets.token_hex(6)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return temporary


def sync_path(path: str | Path) -> None:
    """A local file or folder onto its disk; of a folder, the names in it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def dataset_folder(url: str, profile: str | None = None) -> Folder:
    """The folder of a data set, given the folder's URL or that of its manifest."""
    if not url:
        raise DatasetError("the data set's path is empty; give the folder that holds manifest.json")
    return Folder(url.removesuffix("/").removesuffix("/manifest.json"), profile)
