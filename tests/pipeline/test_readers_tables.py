"""Arrow and Parquet values become plain rows; what cannot is a reject of its own."""

import json
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.blocks import RowBlock, SourceFile, Stretch, Unit
from pipeline.readers import read_blocks
from schemas.rejects import Reason


def read_table(path: Path, end: int) -> RowBlock:
    """The one block of a file; `end` as a stretch of its format has it."""
    status = path.stat()
    kind = "parquet" if path.suffix == ".parquet" else "arrow"
    file = SourceFile(str(path), 0, kind, None, status.st_size, None, str(status.st_mtime_ns))
    (block,) = read_blocks(Unit(0, (Stretch(0, file, 0, end),)), 2**20, 2**20)
    return block


def read_stream(path: Path, table: pa.Table) -> RowBlock:
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)
    return read_table(path, path.stat().st_size)


def rejects_of(block: RowBlock) -> list[tuple[int, Reason]]:
    return [(reject.position, reject.reason) for reject in block.rejects]


def test_arrow_values_become_plain_ones(tmp_path: Path) -> None:
    table = pa.table(
        {
            "when": pa.array([datetime(2024, 5, 6, 7, 8, 9), None]),
            "day": pa.array([date(2024, 5, 6), None]),
            "hour": pa.array([time(7, 8), None]),
            "price": pa.array([Decimal("1.20"), None]),
            "raw": pa.array([b"\xc3\xa9", None], pa.binary()),
            "calls": pa.array([[{"name": "f", "x": 1}, {"name": "g", "y": [2.5]}], []]),
            "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    first, second = read_table(tmp_path / "rows.parquet", end=1).rows
    assert first == {
        "when": "2024-05-06T07:08:09",
        "day": "2024-05-06",
        "hour": "07:08:00",
        "price": "1.20",
        "raw": "\u00e9",
        "calls": [{"name": "f", "x": 1, "y": None}, {"name": "g", "x": None, "y": [2.5]}],
        "map": [["k", 1]],
    }
    assert second == {**dict.fromkeys(first), "calls": []}
    assert json.loads(json.dumps(first)) == first


def test_bytes_that_are_no_text_are_rejects(tmp_path: Path) -> None:
    table = pa.table({"raw": pa.array([b"a", b"\xff", b"c"], pa.binary())})
    block = read_stream(tmp_path / "rows.arrow", table)
    assert list(block.rows) == [{"raw": "a"}, {"raw": "c"}]
    assert rejects_of(block) == [(1, Reason.WRONG_TYPE)]


def test_a_string_that_is_not_utf8_takes_no_other_row_with_it(tmp_path: Path) -> None:
    strings = pa.array([b"a", b"\xff", b"c"], pa.binary()).view(pa.string())
    block = read_stream(tmp_path / "rows.arrow", pa.table({"text": strings}))
    assert list(block.rows) == [{"text": "a"}, {"text": "c"}]
    assert rejects_of(block) == [(1, Reason.INVALID_UTF8)]


def test_a_value_without_a_python_form_is_a_reject(tmp_path: Path) -> None:
    table = pa.table({"when": pa.array([0, 10**18, 1], pa.int64()).view(pa.timestamp("s"))})
    block = read_stream(tmp_path / "rows.arrow", table)
    assert [row["when"] for row in block.rows] == ["1970-01-01T00:00:00", "1970-01-01T00:00:01"]
    assert rejects_of(block) == [(1, Reason.WRONG_TYPE)]
