"""A source that changes or is damaged stops the build with a word that helps."""

import errno
import gzip
import os
import pickle
from dataclasses import replace
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pipeline.blocks import Unit
from pipeline.config import BuildConfig
from pipeline.plan import SourcePlan, plan_sources
from pipeline.readers import SourceChanged, check_unchanged, read_blocks
from pipeline.readers.files import reading
from pipeline.readers.stream import CHUNK, read_chunks
from schemas.errors import ConfigError, DatasetError

LINE = b'{"text": "hello"}\n'


def plan(path: Path | str, **source: object) -> SourcePlan:
    return plan_sources(
        BuildConfig.model_validate(
            {
                "output": "out",
                "seq_len": 64,
                "tokenizer": {"path": "none"},
                "sources": [{"path": str(path), "transform": {"type": "text"}, **source}],
            }
        )
    )


def count_rows(units: tuple[Unit, ...]) -> int:
    return sum(len(block.rows) for unit in units for block in read_blocks(unit, 2**20, 2**20))


def test_a_file_that_grew_stops_the_build(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(LINE)
    planned = plan(path)
    assert count_rows(planned.units) == 1
    path.write_bytes(LINE * 2)
    with pytest.raises(SourceChanged, match=r"rows\.jsonl changed: planned was 18 bytes.*now it is 36 bytes.*again"):
        count_rows(planned.units)


def test_a_file_written_anew_stops_the_build(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(LINE)
    (file,) = plan(path).files
    check_unchanged(file)
    os.utime(path, ns=(1, 1))
    with pytest.raises(SourceChanged, match=rf"mtime {file.mtime}.*mtime 1;"):
        check_unchanged(file)


def test_a_file_that_is_gone_stops_the_build(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(LINE)
    (file,) = plan(path).files
    path.unlink()
    with pytest.raises(SourceChanged, match=r"rows\.jsonl is gone"):
        check_unchanged(file)


@pytest.mark.parametrize("limit", [None, 300])
def test_no_block_is_given_of_a_file_that_has_changed_since_it_was_opened(tmp_path: Path, limit: int | None) -> None:
    """Not even the first: it would be kept, and used once the file is put back."""
    path = tmp_path / "rows.csv"
    path.write_text("n\n" + "1\n" * 600)
    unit = replace(plan(path).units[0], limit=limit)
    blocks = read_blocks(unit, 2 * 200, 2**20)
    assert len(next(blocks).rows) == 200
    path.write_text("n\n" + "2\n" * 600)
    with pytest.raises(SourceChanged):
        next(blocks)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.json", "a.txt", "a.parquet", "a.arrow"])
def test_every_format_looks_at_the_file_that_it_opens(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    table = pa.table({"a": [1]})
    if name == "a.parquet":
        pq.write_table(table, path)
    elif name == "a.arrow":
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    else:
        path.write_bytes(gzip.compress(LINE) if name.endswith(".gz") else b"[{}]" if name == "a.json" else LINE * 2)
    planned = plan(path)
    assert count_rows(planned.units) >= 1
    os.utime(path, ns=(1, 1))
    with pytest.raises(SourceChanged):
        count_rows(planned.units)


def test_an_etag_is_compared_and_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/tagged/a.jsonl", LINE)
    info = fs.info("/tagged/a.jsonl")
    monkeypatch.setattr(type(fs), "info", lambda *_args, **_kwargs: {**info, "ETag": '"abc"'})
    (file,) = plan("memory://tagged/a.jsonl").files
    assert (file.etag, file.mtime) == ("abc", None)
    check_unchanged(file)
    with pytest.raises(SourceChanged, match=r"etag abd.*etag abc"):
        check_unchanged(replace(file, etag="abd"))


def test_another_store_is_read_like_a_disk() -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/lines/a.jsonl", LINE * 3)
    planned = plan("memory://lines/*.jsonl")
    assert [file.url for file in planned.files] == ["memory://lines/a.jsonl"]
    assert planned.files[0].mtime is not None
    assert count_rows(planned.units) == 3


BIG = os.urandom(2**16).hex().encode() + b"\n"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("cut.txt.gz", gzip.compress(BIG * 3)[:-20]),
        ("cut.txt.zst", zstandard.compress(BIG * 3)[:-20]),
        ("second_cut.txt.zst", zstandard.compress(BIG) + zstandard.compress(BIG)[:-20]),
        ("junk.txt.gz", gzip.compress(BIG) + b"junk"),
        ("junk.txt.zst", zstandard.compress(BIG) + b"junk"),
        ("plain.txt.gz", BIG),
        ("plain.txt.zst", BIG),
    ],
)
def test_damaged_compressed_data_names_the_file(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DatasetError, match=rf"{name}: damaged or cut short.*(gzip|zstd)"):
        count_rows(plan(tmp_path / name).units)


def test_a_zstd_window_has_a_limit(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    (tmp_path / "wide.txt.zst").write_bytes(compressor.compress(BIG) + compressor.flush())
    with pytest.raises(DatasetError, match=r"wide\.txt\.zst.*memory"):
        count_rows(plan(tmp_path / "wide.txt.zst").units)


def test_a_zstd_file_may_expand_without_bounds(tmp_path: Path) -> None:
    (tmp_path / "zeros.txt.zst").write_bytes(zstandard.compress(bytes(2**28)))
    (file,) = plan(tmp_path / "zeros.txt.zst").files
    total, before, peak = 0, pa.total_allocated_bytes(), 0
    for chunk in read_chunks(file):
        assert len(chunk) <= CHUNK
        total += len(chunk)
        peak = max(peak, pa.total_allocated_bytes())
    assert total == 2**28
    assert peak - before < 2**24


def test_an_error_of_the_store_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(LINE))
    (file,) = plan(tmp_path / "a.txt.gz").files
    with pytest.raises(OSError, match="Input/output error"), reading(file, OSError):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    with pytest.raises(DatasetError, match="damaged"), reading(file, OSError):
        pa.CompressedInputStream(pa.BufferReader(b"junk"), "gzip").read()


def test_zstd_skippable_frames_are_skipped(tmp_path: Path) -> None:
    skippable = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"1234"
    (tmp_path / "a.txt.zst").write_bytes(zstandard.compress(b"one\n") + skippable + zstandard.compress(b"two\n"))
    assert count_rows(plan(tmp_path / "a.txt.zst").units) == 2


@pytest.mark.parametrize("name", ["a.arrow", "a.parquet"])
def test_a_damaged_table_names_the_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(DatasetError, match=rf"{name}: damaged or cut short, or not {name[2:]} at all"):
        count_rows(plan(path).units)


def test_a_cut_arrow_stream_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    table = pa.table({"a": list(range(10_000))})
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DatasetError, match=r"a\.arrow: damaged or cut short"):
        count_rows(plan(path).units)


@pytest.mark.parametrize("source", [{}, {"text_unit": "file"}])
def test_a_unit_travels_to_a_worker(tmp_path: Path, source: dict[str, str]) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\ntwo\n")
    units = plan(tmp_path / "a.txt", **source).units
    assert pickle.loads(pickle.dumps(units)) == units
    assert count_rows(pickle.loads(pickle.dumps(units))) == (1 if source else 2)


def test_a_store_that_knows_no_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/sizeless/a.jsonl", LINE)
    info = {**fs.info("/sizeless/a.jsonl"), "size": None}
    monkeypatch.setattr(type(fs), "info", lambda *_args, **_kwargs: info)
    with pytest.raises(ConfigError, match="does not tell its size"):
        plan("memory://sizeless/a.jsonl")


def test_an_array_that_unpacks_above_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.readers.json_array.MAX_BYTES", 10_000)
    (tmp_path / "rows.json.gz").write_bytes(gzip.compress(b"[" + b" " * 20_000 + b"]"))
    with pytest.raises(DatasetError, match=r"gzip -dc \S+rows\.json\.gz \| jq -c '\.\[\]' > rows\.jsonl"):
        count_rows(plan(tmp_path / "rows.json.gz").units)
