"""Uploads in parts that were never finished: an S3 bucket keeps the parts, and bills them, where no listing shows them.
Other stores drop them by themselves."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from schemas.file_system import find_file_system
from schemas.retry import call_store
from schemas.store import Folder


@dataclass(frozen=True, slots=True)
class Upload:
    bucket: str
    key: str
    id: str
    initiated: datetime


def unfinished_uploads(output: Folder, folders: Iterable[str]) -> list[Upload]:
    """Those below the output's own folders; none where the store is no S3."""
    fs, root = find_file_system(output.url, output.profile)
    if "s3" not in fs.protocol:
        return []
    bucket, key, _ = fs.split_path(root)
    prefix = f"{key.rstrip('/')}/" if key else ""
    own = tuple(f"{prefix}{folder}/" for folder in folders)
    return [
        Upload(bucket, found["Key"], found["UploadId"], found["Initiated"])
        for page in _pages(output, fs, Bucket=bucket, Prefix=prefix)
        for found in page.get("Uploads", [])
        if found["Key"].startswith(own)
    ]


def _pages(output: Folder, fs: Any, **request: str) -> Iterator[dict[str, Any]]:
    while True:
        page = call_store(output.shown, partial(fs.call_s3, "list_multipart_uploads", **request))
        yield page
        if not page.get("IsTruncated"):
            return
        request |= {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}


def abort_upload(output: Folder, upload: Upload) -> None:
    fs, _ = find_file_system(output.url, output.profile)
    place = {"Bucket": upload.bucket, "Key": upload.key, "UploadId": upload.id}
    with contextlib.suppress(FileNotFoundError):  # it was finished or aborted meanwhile
        call_store(output.shown, partial(fs.call_s3, "abort_multipart_upload", **place))
