"""Room in the cache: the shards that were not used for longest go, but none that a process has open.

Who uses a shard holds a shared lock on its file, and what is fetched is locked by who fetches it; what goes is locked
exclusively first. The system gives back the locks of a process that dies.
"""

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO

PART = ".part"

SPARE = 10
"""Where no limit is given, one part in so many of the disk stays free."""

_NAME = re.compile(rf"[0-9a-f]{{64}}({re.escape(PART)})?")


@dataclass(frozen=True, slots=True)
class _Kept:
    """A file of the cache. A part has its whole size from the beginning, whatever has come of it."""

    path: Path
    used: int  # nanoseconds
    size: int
    allocated: int

    @property
    def is_part(self) -> bool:
        return self.path.name.endswith(PART)


def find_limit(folder: Path, max_bytes: int | None) -> int:
    """The bytes that the cache may hold: those given, or as many as leave a tenth of the disk free."""
    if max_bytes is not None:
        return max_bytes
    disk = os.statvfs(folder)
    spare = disk.f_blocks * disk.f_frsize // SPARE
    return max(0, sum(file.allocated for file in _list_kept(folder)) + disk.f_bavail * disk.f_frsize - spare)


def make_room(folder: Path, max_bytes: int | None) -> int:
    """Remove what others left half fetched, and shards until the limit holds. The bytes that are still too many."""
    limit = find_limit(folder, max_bytes)
    kept = sorted(_list_kept(folder), key=lambda file: (not file.is_part, file.used))
    total = sum(file.size for file in kept)
    for file in kept:
        if (file.is_part or total > limit) and _remove(file.path):
            total -= file.size
    return max(0, total - limit)


def _mark_used(file: IO[bytes]) -> None:
    """By the time of access, which is set because mounts differ in whether reading does. That of the last change stays:
    it tells a file that was checked from one that has changed since."""
    with contextlib.suppress(OSError):  # another user's, or a disk that is not written to
        os.utime(file.fileno(), ns=(time.time_ns(), os.fstat(file.fileno()).st_mtime_ns))


def open_used(path: Path) -> BufferedReader | None:
    """The file at the path, not to be removed by `make_room` while it is open or mapped; None where there is none."""
    while True:
        try:
            file = open(path, "rb")  # noqa: SIM115
        except FileNotFoundError:
            return None
        fcntl.flock(file, fcntl.LOCK_SH)
        if is_at(file, path):
            _mark_used(file)
            return file
        file.close()


def is_at(file: IO[bytes], path: str | Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _list_kept(folder: Path) -> Iterator[_Kept]:
    for entry in os.scandir(folder):
        if _NAME.fullmatch(entry.name):
            with contextlib.suppress(FileNotFoundError):
                found = os.stat(entry.path)
                yield _Kept(Path(entry.path), found.st_atime_ns, found.st_size, found.st_blocks * 512)


def _remove(path: Path) -> bool:
    """Whether the file is gone: nobody had it locked, or another process has removed it."""
    try:
        with open(path, "r+b") as file:  # where a network's file system locks exclusively it wants to be written to
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_at(file, path):
                os.unlink(path)
            fcntl.flock(file, fcntl.LOCK_UN)  # a child that was forked meanwhile has the file open, too
    except FileNotFoundError:
        return True
    except OSError:  # in use, or not ours to remove
        return False
    return True
