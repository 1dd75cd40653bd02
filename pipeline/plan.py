"""What will be read, and by how many: files from the config's paths, cut into units for the workers."""

import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import NamedTuple

from fsspec.core import split_protocol, strip_protocol

from pipeline.blocks import SourceFile, Stretch, Unit
from pipeline.config import BuildConfig
from pipeline.readers.listing import list_files
from pipeline.readers.parquet import row_group_bytes
from schemas.errors import ConfigError

WARN_BYTES = 2**30
"""A unit above this that cannot be split is warned of."""


@dataclass(frozen=True)
class SourcePlan:
    """The same for the same listing. `files` is what a stretch's `source` and the manifest's sources index."""

    files: tuple[SourceFile, ...]
    units: tuple[Unit, ...]
    warnings: tuple[str, ...]


class _Part(NamedTuple):
    """A stretch, its bytes (for Parquet: uncompressed), and whether it is the whole of its file."""

    stretch: Stretch
    bytes: int
    whole: bool


def plan_sources(config: BuildConfig) -> SourcePlan:
    """Lists the sources, and reads the footers of Parquet files. Raises ConfigError, and DatasetError for a footer
    that cannot be read."""
    return cut_files(list_sources(config), config)


def list_sources(config: BuildConfig) -> list[SourceFile]:
    return [file for setting, source in enumerate(config.sources) for file in list_files(setting, source)]


def cut_files(files: Sequence[SourceFile], config: BuildConfig, first_source: int = 0) -> SourcePlan:
    """Files in the order of the config's `sources`; their indexes as sources begin at `first_source`."""
    _refuse_output(config, files)
    units: list[Unit] = []
    for setting, indexed in groupby(enumerate(files, first_source), key=lambda item: item[1].setting):
        limit = config.sources[setting].limit
        parts = [part for index, file in indexed for part in _cut(index, file, config.block_bytes)]
        groups = [parts] if limit else _share(parts, config.block_bytes)
        units += [
            Unit(index, tuple(part.stretch for part in group), limit) for index, group in enumerate(groups, len(units))
        ]
    warnings = (_warning(file) for file in files if config.sources[file.setting].limit is None)
    return SourcePlan(tuple(files), tuple(units), tuple(warning for warning in warnings if warning))


def _refuse_output(config: BuildConfig, files: Iterable[SourceFile]) -> None:
    """Raises ConfigError for a source that a build has written itself, such as its rejects."""
    output = posixpath.join(_full_name(config.output), "")
    found = next((file for file in files if _full_name(file.url).startswith(output)), None)
    if found is not None:
        raise ConfigError(
            f"sources.{found.setting}.path: it matches {found.url}, which is in the output folder; give a narrower "
            "pattern, or an output outside of the sources"
        )


def _full_name(url: str) -> str:
    path: str = strip_protocol(url)
    return f"{split_protocol(url)[0] or 'file'}://{posixpath.normpath(path)}"


def _cut(index: int, file: SourceFile, block_bytes: int) -> list[_Part]:
    """The parts of a file that can be read apart from each other, in order."""
    if file.format == "parquet":
        pieces = list(_group_rows(row_group_bytes(file), block_bytes))
    elif _is_splittable(file):
        count = max(1, -(-file.size // block_bytes))  # as even as can be, so that no worker has more to do, or a rest
        borders = [file.size * part // count for part in range(count + 1)]
        pieces = [(start, end, end - start) for start, end in pairwise(borders)]
    else:
        pieces = [(0, file.size, file.size)]
    return [_Part(Stretch(index, file, start, end), size, len(pieces) == 1) for start, end, size in pieces]


def _is_splittable(file: SourceFile) -> bool:
    """Whether any byte of the file can be where a worker begins to look for its first line."""
    lines = file.format == "jsonl" or (file.format == "text" and file.text_unit == "line")
    return lines and file.compression is None


def _group_rows(sizes: list[int], block_bytes: int) -> Iterator[tuple[int, int, int]]:
    """Neighbouring row groups of up to `block_bytes` together, one at least: first, past the last, bytes."""
    start, held = 0, 0
    for group, size in enumerate(sizes):
        if group > start and held + size > block_bytes:
            yield start, group, held
            start, held = group, 0
        held += size
    yield start, len(sizes), held


def _share(parts: list[_Part], block_bytes: int) -> list[list[_Part]]:
    """Neighbouring whole files of up to `block_bytes` together; every other part by itself."""
    groups: list[list[_Part]] = []
    room = -1
    for part in parts:
        if part.whole and part.bytes <= room:
            groups[-1].append(part)
            room -= part.bytes
        else:
            groups.append([part])
            room = block_bytes - part.bytes if part.whole else -1
    return groups


def _warning(file: SourceFile) -> str | None:
    if file.size <= WARN_BYTES or file.format == "parquet" or _is_splittable(file):
        return None
    kind = file.compression or file.format
    return (
        f"{file.url}: {file.size / 2**30:.1f} GiB of {kind} cannot be split, so one worker reads it all; "
        "make Parquet or plain JSONL of it, or cut it into several files"
    )
