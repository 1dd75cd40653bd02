"""Every format: its rows, their places, its rejects."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pipeline.blocks import RowBlock
from pipeline.config import BuildConfig
from pipeline.plan import plan_sources
from pipeline.readers import read_blocks
from schemas.errors import DatasetError
from schemas.rejects import Reason

ROWS = [
    {"question": f"Q {number}\n\u2028?", "answer": "42 " * (number % 7), "id": str(number)} for number in range(300)
]


def read_all(path: Path, block_bytes: int = 2**20, max_line_bytes: int = 2**20, **source: Any) -> list[RowBlock]:
    """The blocks of a one-file source, checked to be numbered as they must be."""
    config = BuildConfig.model_validate(
        {
            "output": "out",
            "seq_len": 64,
            "tokenizer": {"path": "none"},
            "block_bytes": block_bytes,
            "sources": [{"path": str(path), "transform": {"type": "text"}, **source}],
        }
    )
    blocks = []
    for unit in plan_sources(config).units:
        of_unit = list(read_blocks(unit, block_bytes, max_line_bytes))
        assert [block.key.block for block in of_unit] == list(range(len(of_unit)))
        assert [block.key.last for block in of_unit] == [False] * (len(of_unit) - 1) + [True]
        blocks += of_unit
    return blocks


def made_of(blocks: Iterable[RowBlock]) -> list[RowBlock]:
    """The blocks, those of tables with their rows made."""
    return [replace(block, rows=list(block.rows)) for block in blocks]


def rows_of(blocks: list[RowBlock]) -> list[dict[str, Any]]:
    return [row for block in blocks for row in block.rows]


def positions_of(blocks: list[RowBlock]) -> list[int]:
    return [position for block in blocks for position in block.positions]


def rejects_of(blocks: list[RowBlock]) -> list[tuple[int, Reason]]:
    return [(reject.position, reject.reason) for block in blocks for reject in block.rejects]


def as_jsonl(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_json(rows: list[dict[str, Any]]) -> bytes:
    return ("\ufeff \n" + json.dumps(rows, indent=1)).encode()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=70)
    return sink.getvalue()


def as_arrow(rows: list[dict[str, Any]], new: Callable[..., Any]) -> bytes:
    table = pa.Table.from_pylist(rows)
    sink = io.BytesIO()
    with new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=280)
    return sink.getvalue()


def as_arrow_file(rows: list[dict[str, Any]]) -> bytes:
    return as_arrow(rows, pa.ipc.new_file)


def as_arrow_stream(rows: list[dict[str, Any]]) -> bytes:
    return as_arrow(rows, pa.ipc.new_stream)


FORMATS = {
    "rows.jsonl": as_jsonl,
    "rows.csv": as_csv,
    "rows.json": as_json,
    "rows.parquet": as_parquet,
    "file.arrow": as_arrow_file,
    "stream.arrow": as_arrow_stream,
}


@pytest.mark.parametrize("block_bytes", [500, 2**20])
@pytest.mark.parametrize("name", FORMATS)
def test_rows_come_back_with_their_places(tmp_path: Path, name: str, block_bytes: int) -> None:
    (tmp_path / name).write_bytes(FORMATS[name](ROWS))
    blocks = read_all(tmp_path / name, block_bytes)
    assert rows_of(blocks) == ROWS
    assert rejects_of(blocks) == []
    assert len(blocks) == 1 if block_bytes == 2**20 else len(blocks) > 5
    if name == "rows.jsonl":
        data = (tmp_path / name).read_bytes()
        assert [json.loads(data[at:].split(b"\n")[0]) for at in positions_of(blocks)] == ROWS
    else:
        assert positions_of(blocks) == list(range(len(ROWS)))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.json"])
@pytest.mark.parametrize("suffix", [".gz", ".zst", ".zstd"])
def test_compressed_is_as_plain(tmp_path: Path, name: str, suffix: str) -> None:
    data = FORMATS[name](ROWS)
    compress = gzip.compress if suffix == ".gz" else zstandard.ZstdCompressor().compress
    (tmp_path / name).write_bytes(data)
    (tmp_path / (name + suffix)).write_bytes(compress(data))
    plain, packed = read_all(tmp_path / name), read_all(tmp_path / (name + suffix))
    assert rows_of(plain) == rows_of(packed) == ROWS
    assert positions_of(plain) == positions_of(packed)


NO_ROWS = {
    "rows.jsonl": b"\n\r\n",
    "rows.csv": b"question,answer\n\n",
    "empty.csv": b"",
    "rows.json": b"[]",
    "rows.parquet": as_parquet([]),
    "file.arrow": as_arrow_file([]),
    "stream.arrow": as_arrow_stream([]),
}


@pytest.mark.parametrize("name", NO_ROWS)
def test_a_file_without_rows_is_one_empty_block(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(NO_ROWS[name])
    (block,) = read_all(tmp_path / name)
    assert (block.rows, block.rejects, block.key.last) == ([], [], True)


@pytest.mark.parametrize("name", FORMATS)
def test_a_limit_ends_the_unit(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FORMATS[name](ROWS))
    blocks = read_all(tmp_path / name, 500, limit=123)
    assert len(blocks) > 1
    assert {block.key.unit for block in blocks} == {0}
    assert rows_of(blocks) == ROWS[:123]


@pytest.mark.parametrize("name", FORMATS)
def test_skipped_blocks_change_no_other(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FORMATS[name](ROWS))
    config = {"output": "o", "seq_len": 64, "tokenizer": {"path": "none"}, "block_bytes": 10**6}
    source = {"path": str(tmp_path / name), "transform": {"type": "text"}}
    (unit,) = plan_sources(BuildConfig.model_validate({**config, "sources": [source]})).units
    every = made_of(read_blocks(unit, 700, 2**20))
    assert len(every) > 4
    kept = made_of(read_blocks(unit, 700, 2**20, lambda block: block in (0, 2)))
    assert kept == [every[1], *every[3:]]


def test_jsonl_rejects_say_where_and_lose_nothing_else(tmp_path: Path) -> None:
    lines = [
        b'\xef\xbb\xbf{"n": 1}',
        b'{"n": 2',
        b'{"n": "\xff"}',
        b"[3]",
        b'"secret"',
        b"",
        b'{"n": "' + b"x" * 100 + b'"}\r',
        b'{"n": NaN}',
        b'{"n": "\\ud800"}',
        b'{"n": 1, "n": 4}\r',
        b'{"n": 5} {"n": 6}',
        b'{"n": 7}',
    ]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines))
    blocks = read_all(tmp_path / "rows.jsonl", max_line_bytes=60)
    starts = [sum(len(line) + 1 for line in lines[:index]) for index in range(len(lines))]
    assert rows_of(blocks) == [{"n": 1}, {"n": 4}, {"n": 7}]
    assert positions_of(blocks) == [starts[0], starts[9], starts[11]]
    assert rejects_of(blocks) == [
        (starts[1], Reason.INVALID_JSON),
        (starts[2], Reason.INVALID_UTF8),
        (starts[3], Reason.NOT_AN_OBJECT),
        (starts[4], Reason.NOT_AN_OBJECT),
        (starts[6], Reason.LINE_TOO_LONG),
        (starts[7], Reason.INVALID_JSON),
        (starts[8], Reason.INVALID_JSON),
        (starts[10], Reason.INVALID_JSON),
    ]
    details = [reject.detail for block in blocks for reject in block.rejects]
    assert all(details)
    assert not any("secret" in detail or "xxx" in detail for detail in details)


def test_csv_rejects_say_where_and_lose_nothing_else(tmp_path: Path) -> None:
    lines = [
        b"\xef\xbb\xbfa,b",
        b"1,2",
        b"3",
        b"",
        b"4,5,6",
        b'"7\r\n7",8',
        b'"9"x,10',
        b"\xff,11",
        b"12," + b"x" * 100,
        b"13,14\r",
        b'"15,16',
    ]
    (tmp_path / "rows.csv").write_bytes(b"\n".join(lines))
    blocks = read_all(tmp_path / "rows.csv", max_line_bytes=60)
    assert rows_of(blocks) == [{"a": "1", "b": "2"}, {"a": "7\r\n7", "b": "8"}, {"a": "13", "b": "14"}]
    assert positions_of(blocks) == [0, 3, 7]
    assert rejects_of(blocks) == [
        (1, Reason.INVALID_CSV),
        (2, Reason.INVALID_CSV),
        (4, Reason.INVALID_CSV),
        (5, Reason.INVALID_UTF8),
        (6, Reason.LINE_TOO_LONG),
        (8, Reason.INVALID_CSV),
    ]


def test_a_stray_quote_in_csv_takes_at_most_max_line_bytes(tmp_path: Path) -> None:
    rows = b"".join(b"%d,x\n" % number for number in range(10, 100))
    (tmp_path / "rows.csv").write_bytes(b'a,b\n1,"2\n' + rows)
    blocks = read_all(tmp_path / "rows.csv", max_line_bytes=60)
    assert rejects_of(blocks) == [(0, Reason.LINE_TOO_LONG)]
    assert len(rows_of(blocks)) > 75
    assert rows_of(blocks)[-1] == {"a": "99", "b": "x"}


def test_a_long_csv_field_is_a_field(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(b"a\n" + b"x" * 500_000 + b"\n")
    assert len(rows_of(read_all(tmp_path / "rows.csv"))[0]["a"]) == 500_000


@pytest.mark.parametrize(("data", "said"), [(b"a,a\n1,2\n", "'a' twice"), (b'"a"x\n1\n', "header row")])
def test_a_csv_header_that_cannot_be_used_names_the_file(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "rows.csv").write_bytes(data)
    with pytest.raises(DatasetError, match=rf"rows\.csv.*{said}"):
        read_all(tmp_path / "rows.csv")


def test_json_array_elements_that_are_no_objects_are_rejects(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_bytes(b'[{"a": 1}, 2, null, {"a": 3}]')
    blocks = read_all(tmp_path / "rows.json")
    assert rows_of(blocks) == [{"a": 1}, {"a": 3}]
    assert positions_of(blocks) == [0, 3]
    assert rejects_of(blocks) == [(1, Reason.NOT_AN_OBJECT), (2, Reason.NOT_AN_OBJECT)]


@pytest.mark.parametrize(
    ("data", "said"), [(b'[{"a": 1}, {"a"]', r"column 16.*format: jsonl"), (b'{"rows": []}', "holds a JSON dict.*jq")]
)
def test_what_is_no_json_array_names_file_and_remedy(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "rows.json").write_bytes(data)
    with pytest.raises(DatasetError, match=rf"rows\.json.*{said}"):
        read_all(tmp_path / "rows.json", format="json")


def test_text_is_a_row_a_line_or_a_row_a_file(tmp_path: Path) -> None:
    data = "\ufeffone\r\n\n two\x0b\u2028\nthree".encode()
    (tmp_path / "text.md").write_bytes(data)
    lines = read_all(tmp_path / "text.md")
    assert rows_of(lines) == [{"text": "one"}, {"text": " two\x0b\u2028"}, {"text": "three"}]
    assert positions_of(lines) == [0, 9, 18]
    whole = read_all(tmp_path / "text.md", text_unit="file")
    assert rows_of(whole) == [{"text": data.decode().removeprefix("\ufeff")}]
    assert (positions_of(whole), whole[0].bytes) == ([0], len(data))


def test_text_that_cannot_be_read_is_a_reject(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"good\nb\xe9d\n" + b"x" * 50)
    lines = read_all(tmp_path / "a.txt", max_line_bytes=40)
    assert rows_of(lines) == [{"text": "good"}]
    assert rejects_of(lines) == [(5, Reason.INVALID_UTF8), (9, Reason.LINE_TOO_LONG)]
    assert rejects_of(read_all(tmp_path / "a.txt", text_unit="file")) == [(0, Reason.INVALID_UTF8)]
    long = read_all(tmp_path / "a.txt", max_line_bytes=40, text_unit="file")
    assert rejects_of(long) == [(0, Reason.LINE_TOO_LONG)]


def test_what_datasets_saves_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    assert rows_of(read_all(tmp_path / "saved" / "data-*.arrow")) == ROWS
