"""JSONL, JSON arrays, CSV and text, plain and compressed, of any bytes: rows, rejects or a clear error, in bounded
memory."""

import gzip
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hostile_files import outcome, read_source, refusal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.readers import stream
from pipeline.readers.json_depth import MOST_NESTED
from schemas.errors import DatasetError

in_one_folder = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
PIECES = [
    *(
        b'{"text": "a"}',
        b'{"text": ',
        b"}",
        b"[",
        b"]",
        b'"',
        b"\n",
        b"\r\n",
        b",",
        b"\0",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
    ),
    *(
        b'"\\ud800"',
        b"\xed\xa0\x80",
        b"1e400",
        b"9" * 400,
        b"NaN",
        b"text\n",
        b"\xc3",
        b" ",
        b"null",
        b'{"text":"a","text":3}',
    ),
    b"a" * 5000,
]
FILES = st.lists(st.sampled_from(PIECES) | st.binary(max_size=4), max_size=12).map(b"".join)


@in_one_folder
@given(FILES)
def test_lines_of_any_bytes_are_each_a_row_or_a_reject(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(data)
    begins, position = [], 0
    for line in data.split(b"\n"):
        text = line.removesuffix(b"\r")
        if (text.removeprefix(b"\xef\xbb\xbf") if position == 0 else text).strip(b" \t\r"):
            begins.append(position)
        position += len(line) + 1
    for name, kind in (("rows.jsonl", "jsonl"), ("rows.txt", "text")):
        (tmp_path / name).write_bytes(data)
        found = outcome(tmp_path / name)
        assert [place for place, _ in found] == begins, kind
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(data, 1))
    assert outcome(tmp_path / "rows.jsonl.gz") == outcome(path)


@in_one_folder
@given(FILES, st.sampled_from(["a.csv", "a.json"]), st.sampled_from([b"", b"text\n", b"["]))
def test_other_files_of_any_bytes_give_rows_rejects_or_a_clear_error(
    tmp_path: Path, data: bytes, name: str, front: bytes
) -> None:
    (tmp_path / name).write_bytes(front + data)
    assert name in (refusal(tmp_path / name) or name)


@in_one_folder
@given(st.binary(max_size=60), st.sampled_from(["gz", "zst"]), st.integers(0, 200), st.binary(min_size=1, max_size=2))
def test_damaged_compression_is_a_clear_error(tmp_path: Path, rows: bytes, end: str, at: int, change: bytes) -> None:
    data = b'{"text": "a"}\n' + rows
    whole = gzip.compress(data) if end == "gz" else zstandard.ZstdCompressor(write_checksum=True).compress(data)
    at %= len(whole)
    path = tmp_path / f"rows.jsonl.{end}"
    for damaged in (whole[:at], whole[:at] + change + whole[at + len(change) :], whole + change):
        path.write_bytes(damaged)
        assert path.name in (refusal(path) or path.name)


@pytest.mark.parametrize(
    ("row", "fits"),
    [
        ("[" * (MOST_NESTED - 1) + "]" * (MOST_NESTED - 1), True),
        ("[" * MOST_NESTED + "]" * MOST_NESTED, False),
        ("[" * 1000 + "]" * 1000, False),
        (json.dumps("[{" * 1000), True),
        ("[" + ",".join(["[]"] * 1000) + "]", True),
    ],
    ids=["most", "too many", "1000", "in text", "side by side"],
)
@pytest.mark.parametrize("beside", [b"", b'{"text": "b"}\n' * 3])
def test_nesting_has_one_limit(tmp_path: Path, row: str, fits: bool, beside: bytes) -> None:
    line = f'{{"text": {row}}}'.encode()
    (tmp_path / "rows.jsonl").write_bytes(beside + line + b"\n")
    (tmp_path / "rows.json").write_bytes(b"[" + line + b"]")
    expected = json.loads(line) if fits else "invalid_json"
    assert outcome(tmp_path / "rows.jsonl", max_line_bytes=2**20)[-1][1] == expected
    assert [found for _, found in outcome(tmp_path / "rows.json")] == [expected]


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": lambda data: gzip.compress(data, 1),
    ".zst": lambda data: zstandard.compress(data, 1),
}


@pytest.mark.parametrize("end", COMPRESS)
@pytest.mark.parametrize("kind", ["jsonl", "csv", "txt"])
def test_a_line_without_end_takes_no_more_memory_than_it_may(tmp_path: Path, kind: str, end: str) -> None:
    """32 MiB in a line, of which 64 KiB are allowed; between two that are good."""
    good = {"jsonl": b'{"text": "a"}\n', "csv": b"text\na\n", "txt": b"a\n"}[kind]
    quote = b'"' if kind == "csv" else b""
    path = tmp_path / f"rows.{kind}{end}"
    path.write_bytes(COMPRESS[end](good + quote + b"x" * 2**25 + quote + b"\n" + good.splitlines(keepends=True)[-1]))
    tracemalloc.start()
    try:
        found = outcome(path, block_bytes=2**20, max_line_bytes=2**16)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [each if isinstance(each, str) else each["text"] for _, each in found][::2] == ["a", "a"]
    assert found[1][1] == "line_too_long"
    assert peak < 8 * 2**20


@pytest.mark.parametrize("end", [".gz", ".zst"])
def test_a_bomb_is_refused_while_it_is_read(tmp_path: Path, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "ANY_EXPANSION", 2**20)
    monkeypatch.setattr(stream, "MAX_EXPANSION", 100)
    bomb = COMPRESS[end](bytes(2**24))
    path = tmp_path / f"rows.jsonl{end}"
    path.write_bytes(bomb)
    with pytest.raises(DatasetError, match=rf"rows\.jsonl{end}: its {len(bomb)} bytes expand.*-dc.*rows"):
        read_source(path)
    kind = tmp_path / f"rows.json{end}"  # to be told from a JSON array, its first byte is looked for
    kind.write_bytes(COMPRESS[end](b" " * 2**24))
    with pytest.raises(DatasetError, match="expand"):
        read_source(kind)


def test_any_small_file_may_expand(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.zst"
    path.write_bytes(zstandard.compress(b'{"text": "a"}\n' * 300_000))
    assert path.stat().st_size * stream.MAX_EXPANSION < 300_000 * 14
    assert sum(len(block.rows) for block in read_source(path, block_bytes=2**20)) == 300_000


def test_members_one_after_the_other_are_one_file(tmp_path: Path) -> None:
    rows: list[Any] = [{"text": str(number)} for number in range(9)]
    lines = [json.dumps(row).encode() + b"\n" for row in rows]
    for end in (".gz", ".zst"):
        path = tmp_path / f"rows.jsonl{end}"
        path.write_bytes(b"".join(map(COMPRESS[end], lines)))
        assert [row for _, row in outcome(path)] == rows


def test_a_window_beyond_128_mib_is_refused(tmp_path: Path) -> None:
    wide = zstandard.ZstdCompressionParameters(window_log=31, compression_level=1)
    compressor = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    (tmp_path / "rows.jsonl.zst").write_bytes(compressor.compress(b'{"text": "a"}\n') + compressor.flush())
    with pytest.raises(DatasetError, match="too much memory"):
        read_source(tmp_path / "rows.jsonl.zst")
