"""Whether the files of a data set are there, each with its size: few are asked for one by one, many are listed."""

import posixpath
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from schemas.manifest import RejectFile, ShardFile
from schemas.store import Folder

DataFile = ShardFile | RejectFile

FEW = 100
"""So many requests for a size cost no more time than a listing, of which one request tells a thousand files."""

REQUESTS = 32
"""So many at once, where each waits for a store far away."""


def wrong_size(output: Folder, files: Sequence[DataFile]) -> tuple[DataFile, int | None] | None:
    """The first file that is not there with its size, and what size it has; None where all are whole. A file that a
    listing does not show, or shows otherwise, is asked for: some stores list late."""
    if len(files) > FEW:
        folders = sorted({posixpath.dirname(file.name) for file in files})
        sizes = {found.name: found.bytes for folder in folders for found in output.files(folder)}
        files = [file for file in files if sizes.get(file.name) != file.bytes]
    with ThreadPoolExecutor(REQUESTS) as pool:
        found = pool.map(output.size, [file.name for file in files])
        return next(((file, size) for file, size in zip(files, found, strict=True) if size != file.bytes), None)
