"""One JSON array of objects. It is read whole, so it is bounded."""

import shlex
from collections.abc import Iterator
from functools import partial
from typing import Any

from pipeline.blocks import SourceFile, Stretch
from pipeline.readers.json_value import parse_value
from pipeline.readers.jsonl import as_object
from pipeline.readers.lines import BOM
from pipeline.readers.records import Built, Records, build_each
from pipeline.readers.stream import DECOMPRESS, read_at_most
from schemas.errors import DatasetError

MAX_BYTES = 2**30


def read_json_array(stretch: Stretch, max_line_bytes: int) -> Iterator[Records]:
    """Every element counts the same share of the file's bytes. Raises DatasetError for a file that is no array."""
    data = read_at_most(stretch.file, MAX_BYTES)
    if data is None:
        raise DatasetError(too_large(stretch.file))
    elements = _load(stretch.file, data)
    share = len(data) // max(len(elements), 1)
    yield Records(range(len(elements)), [share] * len(elements), partial(_build, elements))


def _build(elements: list[Any], start: int, stop: int) -> Built:
    return build_each(elements[start:stop], as_object)


def _load(file: SourceFile, data: bytes) -> list[Any]:
    try:
        value = parse_value(data.removeprefix(BOM))
    except ValueError as error:
        raise DatasetError(
            f"{file.url}: not one JSON array: {error}; mend the file, or set `format: jsonl` if it has an object a line"
        ) from error
    if not isinstance(value, list):
        raise DatasetError(
            f"{file.url}: the file holds a JSON {type(value).__name__}, not an array of rows; "
            "take the array out of it with jq, as in: jq -c '.rows[]' FILE > FILE.jsonl"
        )
    return value


def too_large(file: SourceFile) -> str:
    """What to tell of an array above MAX_BYTES: the command that makes JSONL of it."""
    name = shlex.quote(file.url)
    target = shlex.quote(file.url.rpartition("/")[2].partition(".")[0] + ".jsonl")
    command = f"jq -c '.[]' {name}"
    if file.compression:
        command = f"{DECOMPRESS[file.compression]} {name} | jq -c '.[]'"
    return f"{file.url}: a JSON array above 1 GiB is not read; make JSONL of it: {command} > {target}"
