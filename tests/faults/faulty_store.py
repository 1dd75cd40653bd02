"""A file system of fsspec's that has faults: `faulty://` keeps its files in the working folder, and behaves as an
object store does; also the same faults for the local disk."""

import errno
import io
import os
import posixpath
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import md5
from typing import Any

import fsspec
from faults import Fault, Injector, file_kind, flip, half
from fsspec import AbstractFileSystem


class FaultyStore(AbstractFileSystem):
    """Whole files alone are written; all that is there is seen at once."""

    protocol = "faulty"
    cachable = False
    injector: Injector | None = None  # of this process

    def _next(self, operation: Any, path: str) -> Fault | None:
        return self.injector.next(operation, path) if self.injector else None

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        if os.path.isdir(path or "."):
            return {"name": path, "size": 0, "type": "directory"}
        status = os.stat(path)
        with open(path, "rb") as file:
            etag = md5(file.read(), usedforsecurity=False).hexdigest()
        modified = datetime.fromtimestamp(status.st_mtime, UTC)
        return {"name": path, "size": status.st_size, "type": "file", "ETag": etag, "LastModified": modified}

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        path = self._strip_protocol(path)
        if os.path.isfile(path):
            names = [path]
        else:
            names = [posixpath.join(path, name) for name in os.listdir(path or ".") if not name.startswith(".")]
        return [self.info(name) for name in names] if detail else names

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        return self._read(self._strip_protocol(path))[start:end]

    def _read(self, path: str) -> bytes:
        fault = self._next("read", path)
        with open(path, "rb") as file:
            data = file.read()
        if fault is None:
            return data
        if fault.act == "truncate":
            return half(data)
        if fault.act == "flip":
            return flip(data)
        assert self.injector is not None
        if fault.act == "stall":
            self.injector.stall()
            return data
        raise store_error(fault, path)

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        if mode == "rb":
            return io.BytesIO(self._read(path))
        return _Upload(lambda data: self.pipe_file(path, data, mode="create" if "x" in mode else "overwrite"))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        path = self._strip_protocol(path)
        write_with(self.injector, self._next("write", path), path, value, lambda data: _put(path, data, mode))

    def rm_file(self, path: str) -> None:
        os.unlink(self._strip_protocol(path))


class _Upload(io.BytesIO):
    """What is written goes to the store when it is closed."""

    def __init__(self, upload: Callable[[bytes], None]) -> None:
        super().__init__()
        self._upload = upload

    def close(self) -> None:
        if not self.closed:
            data = self.getvalue()
            super().close()
            self._upload(data)


def _put(path: str, data: bytes, mode: str) -> None:
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    temporary = os.path.join(os.path.dirname(path), f".{secrets.token_hex(6)}")
    with open(temporary, "wb") as file:
        file.write(data)
    if mode == "create":
        try:
            os.link(temporary, path)
        finally:
            os.unlink(temporary)
    else:
        os.replace(temporary, path)


def write_with(
    injector: Injector | None, fault: Fault | None, path: str, data: bytes, put: Callable[[bytes], None]
) -> None:
    """A write to a store that is not careful: what fails half-way leaves a half file behind; but of the manifest, which
    readers wait for, none."""
    if injector is None or fault is None:
        put(data)
        return
    injector.interrupt(fault, "before")
    if fault.act in ("full", "truncate") or (fault.act, fault.moment) == ("kill", "half"):
        if file_kind(path) != "manifest":
            put(half(data))
        injector.interrupt(fault, "half")
        if fault.act == "full":
            raise store_error(fault, path)
        return
    if fault.act in ("fail", "refuse"):
        raise store_error(fault, path)
    if fault.act == "stall":
        injector.stall()
    put(flip(data) if fault.act == "flip" else data)
    injector.interrupt(fault, "after")
    if fault.act == "lose":
        raise store_error(fault, path)


def store_error(fault: Fault, path: str) -> OSError:
    number, text = {
        "fail": (errno.EIO, "Input/output error"),
        "refuse": (errno.EBUSY, "503 Slow Down: please reduce your request rate"),
        "lose": (errno.ECONNRESET, "Connection reset by peer"),
        "full": (errno.ENOSPC, "No space left on device"),
    }[fault.act]
    return OSError(number, text, path)


fsspec.register_implementation("faulty", FaultyStore, clobber=True)


def inject_into_disk(injector: Injector) -> None:
    """Faults at the system calls with which schemas/local_files.py writes a local file: its bytes are on the disk after
    `fsync`, its name is there after `replace` or `link`."""
    sync, replace, link = os.fsync, os.replace, os.link
    open_faults: dict[str, Fault] = {}

    def faulty_sync(handle: int) -> None:
        path = os.readlink(f"/proc/self/fd/{handle}")
        fault = None if os.path.isdir(path) else injector.next("write", path)
        if fault is None:
            sync(handle)
            return
        if fault.act in ("fail", "refuse"):
            raise store_error(fault, path)
        if fault.act in ("truncate", "full"):
            os.ftruncate(handle, os.fstat(handle).st_size // 2)
        if fault.act == "full":
            raise store_error(fault, path)
        if fault.act == "flip":
            flip_in_place(path)
        if fault.act == "stall":
            injector.stall()
        injector.interrupt(fault, "before")
        sync(handle)
        injector.interrupt(fault, "half")
        open_faults[path] = fault

    def named(do: Callable[[str, str], None]) -> Callable[[str, str], None]:
        def faulty(source: str, target: str) -> None:
            fault = open_faults.pop(os.path.abspath(source), None)
            do(source, target)
            injector.interrupt(fault, "after")
            if fault is not None and fault.act == "lose":
                raise store_error(fault, target)

        return faulty

    os.fsync = faulty_sync
    os.replace = named(replace)
    os.link = named(link)


def flip_in_place(path: str) -> None:
    with open(path, "r+b") as file:
        data = file.read()
        if data:
            file.seek(0)
            file.write(flip(data))
