"""A file that is created once, by whoever comes first: with the store's own refusal where it has one, else by looking,
writing and looking again."""

import os
import secrets
import time
from pathlib import Path

from schemas.store import Folder

PROBE = "state/probe-"

SETTLE_SECONDS = 5.0
"""How long a writer waits before it looks whose file has stayed, where the store refuses none. Two writers that look at
the same time both find nothing; this is far longer than the one takes from its look to the end of its write."""


def refuses_second(output: Folder) -> bool:
    """Whether the store refuses to create a file of a name that is there, also to two writers at the same moment. Some
    servers speak S3 and take no notice of the condition; on a disk without hard links a file is looked for first, and
    written then. Two writes of a random name, and its removal. Raises OSError where nothing can be written."""
    name = f"{PROBE}{secrets.token_hex(8)}"
    output.create(name, b"first")
    try:
        return not output.create(name, b"second") and (not output.is_local or _has_links(output.local_path(name)))
    finally:
        output.remove(name)


def _has_links(path: Path) -> bool:
    link = path.with_name(f"{path.name}-link")
    try:
        os.link(path, link)
    except OSError:
        return False
    link.unlink()
    return True


def create_once(output: Folder, name: str, data: bytes, settle_seconds: float = SETTLE_SECONDS) -> bool:
    """Whether the file that stands there in the end is this one. False where another was there before, or, on a store
    that refuses no second write, has come in its place while this one waited."""
    if refuses_second(output):
        return output.create(name, data)
    if output.size(name) is not None:
        return False
    output.write(name, data)
    time.sleep(settle_seconds)
    return output.read(name) == data
