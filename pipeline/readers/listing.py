"""From the config's paths to source files: patterns matched, formats told."""

from contextlib import suppress
from dataclasses import replace
from itertools import chain, takewhile
from pathlib import PurePosixPath
from typing import NamedTuple

from pipeline.blocks import Compression, FileFormat, SourceFile
from pipeline.config import Source
from pipeline.readers.files import Stamp, read_stamp
from pipeline.readers.json_array import MAX_BYTES, too_large
from pipeline.readers.lines import BOM
from pipeline.readers.stream import read_chunks
from schemas.errors import ConfigError
from schemas.file_system import find_file_system
from schemas.retry import call_store
from schemas.urls import check_url

_FORMATS: dict[str, FileFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".csv": "csv",
    ".txt": "text",
    ".text": "text",
    ".md": "text",
}
_COMPRESSIONS: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}


class Match(NamedTuple):
    """A file that a pattern matches: its full name on the store, its URL as configured, what tells a changed one."""

    name: str
    url: str
    stamp: Stamp


def list_files(setting: int, source: Source) -> list[SourceFile]:
    """The files of one entry of `sources`: sorted within each path, each once. Raises ConfigError."""
    return [describe_file(setting, source, match) for match in match_files(setting, source)]


def match_files(setting: int, source: Source, *, may_be_none: bool = False) -> list[Match]:
    """Without a look into them, so that they may be half written. Raises ConfigError, also for a path that matches
    nothing, unless there may be none."""
    where = f"sources.{setting}"
    found: dict[str, Match] = {}
    for pattern in source.paths:
        check_url(f"{where}.path", pattern)
        for match in _match(where, pattern, source.profile, may_be_none):
            found.setdefault(match.name, match)
    return list(found.values())


def _match(where: str, pattern: str, profile: str | None, may_be_none: bool) -> list[Match]:
    try:
        fs, stem = find_file_system(pattern, profile)
        fs.invalidate_cache()
        found = call_store(pattern, lambda: fs.glob(stem, detail=True))
        paths = sorted(path for path, info in found.items() if info["type"] == "file" or fs.isfile(path))
        urls = _as_configured(pattern, stem, paths)
        matches = []
        for path in paths:
            with suppress(FileNotFoundError):  # removed since
                stamp = read_stamp(fs, path, found[path])
                matches.append(Match(fs.unstrip_protocol(path), urls[path], stamp))
    except (ValueError, OSError) as error:
        raise ConfigError(f"{where}.path: {pattern!r} cannot be listed: {error}") from error
    if not matches and not may_be_none:
        more = (
            "no file, only folders, pipes or devices; add what to take in a folder, such as /*.jsonl"
            if found
            else "nothing; check it"
        )
        raise ConfigError(f"{where}.path: {pattern!r} matches {more}")
    return matches


def _as_configured(pattern: str, stem: str, paths: list[str]) -> dict[str, str]:
    """The URL of each path. A pattern and what the file system makes of it (`stem`) differ in front alone, by a scheme
    or the working folder, and so do a file's URL and its path."""
    same = sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(reversed(pattern), reversed(stem), strict=False))
    )
    front, real_front = pattern[: len(pattern) - same], stem[: len(stem) - same]
    return {path: front + path.removeprefix(real_front) for path in paths}


def describe_file(setting: int, source: Source, match: Match) -> SourceFile:
    """Its format and compression. Raises ConfigError where they cannot be told or read, SourceChanged where the file
    had to be looked into and is no longer the one that matched."""
    file = _describe(setting, source, match)
    _check_readable(f"sources.{setting}", file)
    return file


def _describe(setting: int, source: Source, match: Match) -> SourceFile:
    name = PurePosixPath(match.url.lower())
    compression = _COMPRESSIONS.get(name.suffix)
    suffix = name.with_suffix("").suffix if compression else name.suffix
    file_format = _FORMATS.get(suffix) if source.format == "auto" else source.format
    if file_format is None:
        raise ConfigError(
            f"sources.{setting}: the format of {match.url} cannot be told from its suffix {suffix!r}; "
            f"add `format:` with one of {', '.join(sorted(set(_FORMATS.values())))}"
        )
    file = SourceFile(match.url, setting, file_format, compression, *match.stamp, source.text_unit, source.profile)
    if source.format == "auto" and file_format == "json" and not _is_array(file):
        return replace(file, format="jsonl")
    return file


def _is_array(file: SourceFile) -> bool:
    """Whether the first byte that is not blank opens a JSON array."""
    data = chain.from_iterable(read_chunks(file))
    return next((byte for byte in data if byte not in b" \t\r\n" + BOM), None) == ord("[")


def _check_readable(where: str, file: SourceFile) -> None:
    if file.compression and file.format in ("parquet", "arrow"):
        tool = {"gzip": "gzip -d", "zstd": "zstd -d"}[file.compression]
        raise ConfigError(
            f"{where}: {file.url} is {file.format} within {file.compression}, which cannot be read in pieces; "
            f"decompress it: {tool} {file.url}"
        )
    if file.format == "json" and file.size > MAX_BYTES:
        raise ConfigError(f"{where}: {too_large(file)}")
