"""What flows between the steps: one block of a unit, on its way from rows to a shard.

A **unit** is a stretch of the sources that one worker reads; it gives one or more **blocks**, numbered as
they come. A block is the unit of packing, of a shard, and of retry.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from schemas.conversation import Document
from schemas.file_system import absolute_url
from schemas.rejects import Reject

FileFormat = Literal["jsonl", "json", "parquet", "arrow", "csv", "text"]
Compression = Literal["gzip", "zstd"]


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One input file as the plan saw it. `setting` indexes the config's `sources`. No part of what the file is are
    `profile`, the name of its store's options, and `place`, where processes open it that may have other working
    folders."""

    url: str
    setting: int
    format: FileFormat
    compression: Compression | None
    size: int
    etag: str | None
    mtime: str | None
    text_unit: Literal["line", "file"] = "line"  # of format text: what is a document
    profile: str | None = None
    place: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "place", absolute_url(self.url))


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of one file: [start, end) in bytes for plain JSONL and text lines, in row groups for Parquet; the
    whole of any other file, and then start = 0 and end = size.
    `source` indexes the plan's files, and so the manifest's sources.
    """

    source: int
    file: SourceFile
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Unit:
    """Stretches read one after the other by one worker; at most `limit` rows in all."""

    index: int
    stretches: tuple[Stretch, ...]
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class BlockKey:
    unit: int
    block: int
    last: bool  # no further block follows in this unit

    @property
    def name(self) -> str:
        return f"{self.unit:05d}-{self.block:03d}"


@dataclass(slots=True)
class RowBlock:
    """Rows as read: parallel sequences. `rows` is a list, or the TableRows of Arrow batches, which make their rows when
    they are asked for. `rejects` are rows that could not be read; `bytes` is uncompressed input."""

    key: BlockKey
    sources: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    rows: Sequence[dict[str, Any]] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """A row that is compared with what another stack makes of it: what a person would send to a server, None where
    that cannot be told."""

    source: int
    position: int
    request: dict[str, Any] | None

    @property
    def place(self) -> tuple[int, int]:
        return self.source, self.position


@dataclass(slots=True)
class DocumentBlock:
    """Conversations and texts, parallel to their places. `samples` are rows of the block, as they were read."""

    key: BlockKey
    sources: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    documents: Sequence[Document] = ()
    rejects: list[Reject] = field(default_factory=list)
    bytes: int = 0
    samples: list[Sample] = field(default_factory=list)
