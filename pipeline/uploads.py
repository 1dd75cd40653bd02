"""Uploads in parts that were never finished: an S3 bucket keeps the parts, and bills them, where no listing shows them.
Other stores drop them by themselves."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fsspec.core import url_to_fs

from schemas.profiles import storage_options
from schemas.store import Folder


@dataclass(frozen=True, slots=True)
class Upload:
    bucket: str
    key: str
    id: str
    initiated: datetime


def unfinished_uploads(output: Folder) -> list[Upload]:
    """Those below the folder; none where the store is no S3."""
    fs, root = url_to_fs(output.url, **storage_options(output.profile))
    if "s3" not in fs.protocol:
        return []
    bucket, key, _ = fs.split_path(root)
    prefix = f"{key.rstrip('/')}/" if key else ""
    return [
        Upload(bucket, found["Key"], found["UploadId"], found["Initiated"])
        for page in _pages(fs, bucket, prefix)
        for found in page.get("Uploads", [])
        if found["Key"].startswith(prefix)
    ]


def _pages(fs: Any, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    markers: dict[str, str] = {}
    while True:
        page = fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix, **markers)
        yield page
        if not page.get("IsTruncated"):
            return
        markers = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}


def abort_upload(output: Folder, upload: Upload) -> None:
    fs, _ = url_to_fs(output.url, **storage_options(output.profile))
    try:
        fs.call_s3("abort_multipart_upload", Bucket=upload.bucket, Key=upload.key, UploadId=upload.id)
    except FileNotFoundError:
        return  # it was finished or aborted meanwhile
