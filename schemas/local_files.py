"""Files of the local disk, written whole or not at all."""

import contextlib
import errno
import os
import secrets
from pathlib import Path

_NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)


def write_file(path: str, data: bytes | memoryview) -> None:
    """Over one of the same name."""
    temporary = _write_temporary(path, data)
    os.replace(temporary, path)
    sync_path(os.path.dirname(path))


def create_file(path: str, data: bytes) -> None:
    """Raises FileExistsError. On a disk without hard links two that create at once may both find none there, and the
    later one's file stays."""
    temporary = _write_temporary(path, data)
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from error
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    sync_path(os.path.dirname(path))


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
