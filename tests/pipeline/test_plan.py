"""Planning: which files, in which units, and what is refused."""

import gzip
import io
import math
import os
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.blocks import Unit
from pipeline.config import BuildConfig
from pipeline.plan import SourcePlan, plan_sources
from pipeline.readers import read_blocks
from schemas.errors import ConfigError, DatasetError

GIB = 2**30
LINE = b'{"text": "hello"}\n'


def plan(*sources: dict[str, Any], block_bytes: int = 2**20) -> SourcePlan:
    return plan_sources(
        BuildConfig.model_validate(
            {
                "output": "out",
                "seq_len": 64,
                "tokenizer": {"path": "none"},
                "block_bytes": block_bytes,
                "sources": [{"transform": {"type": "text"}, **source} for source in sources],
            }
        )
    )


def places(unit: Unit) -> list[tuple[int, int, int]]:
    return [(part.source, part.start, part.end) for part in unit.stretches]


def make_sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "deep").mkdir(parents=True)
    for name in ("b.jsonl", "a.jsonl", "deep/c.jsonl"):
        (tmp_path / "data" / name).write_bytes(LINE)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "urls"),
    [
        ("data/*.jsonl", ["data/a.jsonl", "data/b.jsonl"]),
        ("./data/*.jsonl", ["./data/a.jsonl", "./data/b.jsonl"]),
        ("data/deep/../*.jsonl", ["data/deep/../a.jsonl", "data/deep/../b.jsonl"]),
        ("data/**/*.jsonl", ["data/a.jsonl", "data/b.jsonl", "data/deep/c.jsonl"]),
        (["data/b.jsonl", "data/*.jsonl"], ["data/b.jsonl", "data/a.jsonl"]),
        (["data/b.jsonl", "./data/b.jsonl"], ["data/b.jsonl"]),
    ],
)
def test_files_in_order_each_once_as_configured(folder: Path, path: str | list[str], urls: list[str]) -> None:
    assert [file.url for file in plan({"path": path}).files] == urls


def test_absolute_and_file_urls_stay_as_configured(folder: Path) -> None:
    for front in (f"{folder}/data", f"file://{folder}/data"):
        assert [file.url for file in plan({"path": f"{front}/*.jsonl"}).files] == [
            f"{front}/a.jsonl",
            f"{front}/b.jsonl",
        ]


def test_a_link_to_a_file_is_a_file(folder: Path) -> None:
    (folder / "link.jsonl").symlink_to("data/a.jsonl")
    (folder / "folder.jsonl").symlink_to("data")
    (file,) = plan({"path": "*.jsonl"}).files
    assert (file.url, file.size) == ("link.jsonl", len(LINE))


def test_the_same_file_in_two_settings_is_two_sources(folder: Path) -> None:
    planned = plan({"path": "data/a.jsonl"}, {"path": "data/*.jsonl"})
    assert [(file.url, file.setting) for file in planned.files] == [
        ("data/a.jsonl", 0),
        ("data/a.jsonl", 1),
        ("data/b.jsonl", 1),
    ]
    assert [places(unit) for unit in planned.units] == [[(0, 0, 18)], [(1, 0, 18), (2, 0, 18)]]
    assert [unit.index for unit in planned.units] == [0, 1]


def test_a_plan_is_the_same_twice_and_knows_what_changed(folder: Path) -> None:
    sources = {"path": "data/**/*.jsonl"}, {"path": "data/a.jsonl", "limit": 3}
    first = plan(*sources, block_bytes=20)
    assert plan(*sources, block_bytes=20) == first
    assert all(file.etag is None and file.mtime and file.mtime.isdecimal() for file in first.files)
    os.utime("data/a.jsonl", ns=(5, 5))
    again = plan(*sources, block_bytes=20)
    assert [file.mtime for file in again.files if file.url == "data/a.jsonl"] == ["5", "5"]
    assert again != first


FORMATS = {
    "a.jsonl": ("jsonl", None),
    "a.ndjson.zst": ("jsonl", "zstd"),
    "A.JSONL.GZ": ("jsonl", "gzip"),
    "a.csv": ("csv", None),
    "a.csv.zstd": ("csv", "zstd"),
    "a.txt": ("text", None),
    "a.text": ("text", None),
    "a.b.md": ("text", None),
    "a.arrow": ("arrow", None),
}


@pytest.mark.parametrize("name", FORMATS)
def test_the_suffix_tells_the_format(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"")
    (file,) = plan({"path": name}).files
    assert (file.format, file.compression) == FORMATS[name]


@pytest.mark.parametrize(
    ("data", "kind"),
    [(b' \r\n\t[{"a": 1}]', "json"), (b"\xef\xbb\xbf[]", "json"), (b'{"a": [1]}\n', "jsonl"), (b"", "jsonl")],
)
def test_the_first_byte_tells_an_array_from_lines(folder: Path, data: bytes, kind: str) -> None:
    (folder / "a.json").write_bytes(data)
    (folder / "a.json.gz").write_bytes(gzip.compress(data))
    assert [file.format for file in plan({"path": ["a.json", "a.json.gz"]}).files] == [kind, kind]


def test_format_is_taken_at_its_word(folder: Path) -> None:
    (folder / "a.dat").write_bytes(LINE)
    assert plan({"path": "a.dat", "format": "jsonl"}).files[0].format == "jsonl"
    assert plan({"path": "data/a.jsonl", "format": "text"}).files[0].format == "text"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"path": "nothing/*.jsonl"}, r"sources\.0\.path: 'nothing/\*\.jsonl' matches nothing"),
        ({"path": ["data/a.jsonl", "none.jsonl"]}, r"sources\.0\.path: 'none\.jsonl' matches nothing"),
        ({"path": "data"}, r"sources\.0\.path: 'data' matches no file, only folders"),
        ({"path": "odd.dat"}, r"sources\.0: the format of odd\.dat .*'\.dat'; add `format:`"),
        ({"path": "a.parquet.gz"}, r"sources\.0: a\.parquet\.gz is parquet within gzip.*gzip -d a\.parquet\.gz"),
        ({"path": "nowhere://a.jsonl"}, r"sources\.0\.path: 'nowhere://a\.jsonl' cannot be listed: .*nowhere"),
        ({"path": "zip://a.jsonl::b.zip"}, r"chains file systems"),
    ],
)
def test_what_cannot_be_read_is_refused(folder: Path, source: dict[str, Any], said: str) -> None:
    for name in ("odd.dat", "a.parquet.gz"):
        (folder / name).write_bytes(b"x")
    with pytest.raises(ConfigError, match=said):
        plan(source)


@pytest.mark.parametrize(
    "path",
    ["https://h/a.jsonl?sig=hush", "https://hush@h/a.jsonl", "https://u:hush@h/a.jsonl", "ftp://u:hush@h/a.jsonl"],
)
def test_secrets_in_a_path_are_refused_and_not_told(path: str) -> None:
    with pytest.raises(ConfigError, match="environment") as caught:
        plan({"path": path})
    assert "hush" not in str(caught.value)


def test_lines_are_cut_evenly_in_ranges_of_up_to_block_bytes(folder: Path) -> None:
    (folder / "a.jsonl").write_bytes(LINE * 100)
    planned = plan({"path": "a.jsonl"}, block_bytes=500)
    assert [places(unit) for unit in planned.units] == [
        [(0, 0, 450)],
        [(0, 450, 900)],
        [(0, 900, 1350)],
        [(0, 1350, 1800)],
    ]


@given(size=st.integers(0, 10_000), block_bytes=st.integers(1, 3000))
def test_ranges_of_a_file_are_as_many_as_are_needed_and_differ_by_a_byte(size: int, block_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "a.jsonl").write_bytes(b"x" * size)
        planned = plan({"path": f"{folder}/a.jsonl"}, block_bytes=block_bytes)
        ranges = [(start, end) for unit in planned.units for _, start, end in places(unit)]
    assert len(ranges) == max(1, math.ceil(size / block_bytes))
    assert ranges[0][0] == 0
    assert ranges[-1][1] == size
    assert all(end == start for (_, end), (start, _) in pairwise(ranges))
    sizes = [end - start for start, end in ranges]
    assert max(sizes) <= block_bytes
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("name", "source"), [("a.csv", {}), ("a.txt", {"text_unit": "file"}), ("a.jsonl.gz", {}), ("a.json", {})]
)
def test_what_cannot_be_cut_is_one_unit(folder: Path, name: str, source: dict[str, Any]) -> None:
    (folder / name).write_bytes(gzip.compress(os.urandom(3000)) if name.endswith(".gz") else b"[" + b" " * 3000)
    (unit,) = plan({"path": name, **source}, block_bytes=500).units
    assert places(unit) == [(0, 0, (folder / name).stat().st_size)]


def test_small_files_share_a_unit_in_their_order(folder: Path) -> None:
    sizes = {"a": 40, "b": 60, "c": 1, "d": 250, "e": 0, "f": 99, "g": 99}
    for name, size in sizes.items():
        (folder / f"{name}.txt").write_bytes(b"x" * size)
    planned = plan({"path": "?.txt"}, block_bytes=100)
    assert [places(unit) for unit in planned.units] == [
        [(0, 0, 40), (1, 0, 60)],
        [(2, 0, 1)],
        [(3, 0, 83)],
        [(3, 83, 166)],
        [(3, 166, 250)],
        [(4, 0, 0), (5, 0, 99)],
        [(6, 0, 99)],
    ]


def test_a_shared_unit_reads_every_file(folder: Path) -> None:
    planned = plan({"path": "data/**/*.jsonl"})
    (unit,) = planned.units
    (block,) = read_blocks(unit, 2**20, 2**20)
    assert (block.sources, block.positions) == ([0, 1, 2], [0, 0, 0])
    assert block.bytes == 3 * len(LINE)


def test_parquet_is_cut_between_row_groups(folder: Path) -> None:
    table = pa.table({"n": list(range(1000)), "s": [os.urandom(20).hex() for _ in range(1000)]})
    pq.write_table(table, "a.parquet", row_group_size=100, use_dictionary=False)
    group = pq.ParquetFile("a.parquet").metadata.row_group(0).total_byte_size
    planned = plan({"path": "a.parquet"}, block_bytes=int(group * 3.5))
    assert [places(unit)[0][1:] for unit in planned.units] == [(0, 3), (3, 6), (6, 9), (9, 10)]
    blocks = [block for unit in planned.units for block in read_blocks(unit, int(group * 3.5), 2**20)]
    assert len(blocks) == len(planned.units)
    assert [position for block in blocks for position in block.positions] == list(range(1000))
    assert [row for block in blocks for row in block.rows] == table.to_pylist()
    assert len(plan({"path": "a.parquet"}, block_bytes=1).units) == 10
    assert [places(unit) for unit in plan({"path": "a.parquet"}).units] == [[(0, 0, 10)]]


def test_a_parquet_file_counts_uncompressed(folder: Path) -> None:
    sink = io.BytesIO()
    table = pa.table({"s": ["x" * 1000 + str(number) for number in range(100)]})
    pq.write_table(table, sink, compression="zstd", row_group_size=50, use_dictionary=False)
    (folder / "a.parquet").write_bytes(sink.getvalue())
    assert len(sink.getvalue()) < 20_000
    assert len(plan({"path": "a.parquet"}, block_bytes=60_000).units) == 2


def test_row_groups_share_no_unit_with_another_file(folder: Path) -> None:
    table = pa.table({"s": ["x" * 1000 + str(number) for number in range(100)]})
    pq.write_table(table.slice(0, 1), "1.parquet", use_dictionary=False)
    with pq.ParquetWriter("2.parquet", table.schema, use_dictionary=False, compression="none") as writer:
        writer.write_table(table.slice(0, 1))
        writer.write_table(table)
    planned = plan({"path": "?.parquet"}, block_bytes=100_000)
    assert [places(unit) for unit in planned.units] == [[(0, 0, 1)], [(1, 0, 1)], [(1, 1, 2)]]


def test_a_footer_that_cannot_be_read_names_the_file(folder: Path) -> None:
    (folder / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DatasetError, match=r"a\.parquet: damaged"):
        plan({"path": "a.parquet"})


def test_a_limited_source_is_one_unit(folder: Path) -> None:
    for name in "xyz":
        (folder / f"{name}.jsonl").write_bytes(LINE * 10)
    planned = plan({"path": "?.jsonl", "limit": 25}, {"path": "data/a.jsonl"}, block_bytes=100)
    assert [unit.limit for unit in planned.units] == [25, None]
    assert {source for source, _, _ in places(planned.units[0])} == {0, 1, 2}
    blocks = list(read_blocks(planned.units[0], 100, 2**20))
    assert [(source, sum(block.sources.count(source) for block in blocks)) for source in range(3)] == [
        (0, 10),
        (1, 10),
        (2, 5),
    ]
    assert [block.key.last for block in blocks] == [False] * (len(blocks) - 1) + [True]


def test_a_limit_counts_rejects_too(folder: Path) -> None:
    (folder / "a.jsonl").write_bytes(b"bad\n\n" * 3 + LINE * 3)
    (unit,) = plan({"path": "a.jsonl", "limit": 4}).units
    (block,) = read_blocks(unit, 2**20, 2**20)
    assert (len(block.rejects), len(block.rows)) == (3, 1)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl.gz", "a.arrow"])
def test_a_large_unit_that_cannot_be_split_is_warned_of(folder: Path, name: str) -> None:
    make_sparse(folder / name, 3 * GIB // 2)
    (warning,) = plan({"path": name}).warnings
    assert f"{name}: 1.5 GiB" in warning
    assert "cannot be split" in warning
    assert plan({"path": name, "limit": 5}).warnings == ()
    make_sparse(folder / name, GIB)
    assert plan({"path": name}).warnings == ()


def test_a_large_file_of_lines_is_no_reason_to_warn(folder: Path) -> None:
    make_sparse(folder / "a.jsonl", 3 * GIB // 2)
    planned = plan({"path": "a.jsonl"}, block_bytes=GIB)
    assert (planned.warnings, len(planned.units)) == ((), 2)


def test_a_large_json_array_is_refused_with_the_command(folder: Path) -> None:
    make_sparse(folder / "all rows.json", GIB + 1)
    with pytest.raises(ConfigError, match=r"jq -c '\.\[\]' 'all rows\.json' > 'all rows\.jsonl'"):
        plan({"path": "all rows.json", "format": "json"})
