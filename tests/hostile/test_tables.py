"""Parquet, Arrow files and shards of any bytes: rows, rejects or a clear error. Arrow can bring down the process, so
the damaged files are read in one of their own."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flip_bytes import FILES
from hostile_files import outcome, read_source

from schemas.errors import DatasetError


@pytest.mark.slow
def test_flipped_bytes_crash_no_reader(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "support" / "flip_bytes.py"
    command = [sys.executable, str(script), str(tmp_path), "250"]
    found = {**os.environ, "PYTHONPATH": str(script.parent)}  # a build in this process may have set PYTHONSAFEPATH
    ran = subprocess.run(command, env=found, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    seen = dict(line.split(": ") for line in ran.stdout.splitlines())
    assert set(seen) == {f"{name} {result}" for name in FILES for result in ("read", "refused")}
    assert all(int(count) > 20 for count in seen.values())


def parquet(path: Path, table: pa.Table, **options: Any) -> Path:
    pq.write_table(table, path, **options)
    return path


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1PAR1", b"PAR1\xff\xff\xff\x7fPAR1", b"PAR1\xff\xff\xff\xffPAR1"])
def test_a_footer_that_lies_about_its_length_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(DatasetError, match=r"a\.parquet: damaged"):
        read_source(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    "data", [b"", b"ARROW1", b"ARROW1\0\0", b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"ARROW1\0\0" * 9]
)
def test_an_arrow_file_of_nothing_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.arrow").write_bytes(data)
    with pytest.raises(DatasetError, match=r"a\.arrow: damaged"):
        read_source(tmp_path / "a.arrow")


def arrow_file(path: Path, batch: pa.RecordBatch) -> Path:
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    path.write_bytes(sink.getvalue())
    return path


def test_offsets_and_indexes_that_lead_astray_are_refused(tmp_path: Path) -> None:
    offsets = pa.py_buffer(bytes.fromhex("00000000ffffff7f02000000"))
    indexes = pa.array([0, 70_000], pa.int32())
    columns = [
        pa.StringArray.from_buffers(2, offsets, pa.py_buffer(b"ab")),
        pa.Array.from_buffers(pa.list_(pa.int8()), 2, [None, offsets], children=[pa.array([1, 2], pa.int8())]),
        pa.DictionaryArray.from_arrays(indexes, pa.array(["a"]), safe=False),
    ]
    for column in columns:
        with pytest.raises(DatasetError, match=r"a\.arrow: damaged"):
            read_source(arrow_file(tmp_path / "a.arrow", pa.record_batch({"text": column})))


def test_bytes_that_are_no_text_are_rejects_of_their_rows_alone(tmp_path: Path) -> None:
    texts = pa.array([b"a", b"\xff", b"c"], pa.binary())
    broken = pa.Array.from_buffers(pa.string(), 3, texts.buffers())
    nested = pa.StructArray.from_arrays([broken.dictionary_encode()], ["inner"])
    for column in (broken, nested):
        path = arrow_file(tmp_path / "a.arrow", pa.record_batch({"text": column}))
        assert [found if isinstance(found, str) else "row" for _, found in outcome(path)] == [
            "row",
            "invalid_utf8",
            "row",
        ]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kept", ["parquet", "parquet with dictionaries", "arrow"])
def test_one_text_in_all_rows_does_not_fill_a_block_without_end(tmp_path: Path, kept: str, nested: bool) -> None:
    """2000 rows of 10 KB, which a file keeps in 20 KB."""
    texts: pa.Array = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), pa.array(["x" * 10_000]))
    if kept == "parquet":
        texts = texts.dictionary_decode()
    if nested:
        texts = pa.StructArray.from_arrays([texts], ["inner"])
        texts = pa.ListArray.from_arrays(pa.array(range(2001), pa.int32()), texts)
    table = pa.table({"text": texts})
    if kept == "arrow":
        path = arrow_file(tmp_path / "a.arrow", table.to_batches()[0])
    else:
        path = parquet(tmp_path / "a.parquet", table, row_group_size=10**6)
    assert path.stat().st_size < 50_000
    blocks = read_source(path, block_bytes=2**20, max_line_bytes=2**20)
    assert sum(len(block.rows) for block in blocks) == 2000
    assert max(len(repr(block.rows)) for block in blocks) < 1.2 * 2**20


def test_rows_that_are_too_long_are_refused_by_the_footer_or_rejected(tmp_path: Path) -> None:
    table = pa.table({"text": ["x" * 10_000] * 3})
    plain = parquet(tmp_path / "a.parquet", table, use_dictionary=False, compression="zstd")
    with pytest.raises(DatasetError, match=r"row group 0 have 10\d\d\d bytes each.*max_line_bytes is 4096; raise it"):
        read_source(plain)
    once = parquet(tmp_path / "a.parquet", table)
    assert [found for _, found in outcome(once)] == ["line_too_long"] * 3
    file = arrow_file(tmp_path / "a.arrow", table.to_batches()[0])
    assert [found for _, found in outcome(file)] == ["line_too_long"] * 3


def test_many_columns_of_odd_names(tmp_path: Path) -> None:
    names = ["text", "", "\0", "__class__", "a.b", "{", "\u202e", *(f"c{number}" for number in range(2000))]
    path = parquet(tmp_path / "a.parquet", pa.table({name: ["x"] for name in names}))
    ((_, row),) = outcome(path, max_line_bytes=2**24)
    assert row == dict.fromkeys(names, "x")
