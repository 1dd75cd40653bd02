"""Shards: what is written is what is read, by us without a copy and by any other reader of Arrow."""

import itertools
import subprocess
import sys
from dataclasses import fields, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import DatasetError
from schemas.shard import PACKS_PER_BATCH, Packs, Shard, ShardMeta, map_shard, read_shard, shard_schema, write_shard

REPOSITORY = Path(__file__).parents[2]
SEQ_LEN = 8
META = ShardMeta(seq_len=SEQ_LEN, recipe_id="b" * 64, pad_id=7, tokenizer_sha256="c" * 64)
COLUMNS = ["input_ids", "channel", "doc_lengths", "doc_source", "doc_position", "doc_piece"]


def make_packs(count: int, *, weights: bool = False, seed: int = 0) -> Packs:
    """Packs of one to three documents, every value another."""
    rng = np.random.default_rng(seed)
    per_pack = rng.integers(1, 4, count)
    documents = int(per_pack.sum())
    return Packs(
        input_ids=rng.integers(0, 2**31 - 1, (count, SEQ_LEN)).astype(np.int32),
        channel=rng.integers(0, 256, (count, SEQ_LEN)).astype(np.uint8),
        doc_offsets=np.cumsum([0, *per_pack]).astype(np.int32),
        doc_lengths=rng.integers(1, 3, documents).astype(np.int32),
        doc_source=rng.integers(0, 2**31 - 1, documents).astype(np.int32),
        doc_position=rng.integers(0, 2**63 - 1, documents),
        doc_piece=rng.integers(0, 2**31 - 1, documents).astype(np.int32),
        weight=rng.random((count, SEQ_LEN), np.float32) if weights else None,
    )


def encode(packs: Packs, meta: ShardMeta = META) -> bytes:
    sink = BytesIO()
    write_shard(packs, meta, sink)
    return sink.getvalue()


def read(data: bytes) -> Shard:
    return read_shard(pa.py_buffer(data), "here")


def rows_of(packs: Packs) -> list[dict[str, Any]]:
    """Each pack as plain values, documents found by walking over the offsets."""
    rows = []
    for pack in range(len(packs)):
        start, stop = int(packs.doc_offsets[pack]), int(packs.doc_offsets[pack + 1])
        row = {name: getattr(packs, name)[pack].tolist() for name in ("input_ids", "channel")}
        row |= {name: getattr(packs, name)[start:stop].tolist() for name in COLUMNS[2:]}
        if packs.weight is not None:
            row["weight"] = packs.weight[pack].tolist()
        rows.append(row)
    return rows


def shard_rows(shard: Shard) -> list[dict[str, Any]]:
    return list(itertools.chain.from_iterable(rows_of(packs) for packs in shard.batches))


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("count", [0, 1, 3, PACKS_PER_BATCH - 1, PACKS_PER_BATCH, 2 * PACKS_PER_BATCH + 5])
def test_round_trip(count: int, weights: bool) -> None:
    packs = make_packs(count, weights=weights)
    shard = read(encode(packs))
    assert shard.meta == META
    assert len(shard) == count
    assert len(shard.batches) == -(-count // PACKS_PER_BATCH)
    assert all(batch.doc_offsets[0] == 0 for batch in shard.batches)
    assert shard_rows(shard) == rows_of(packs)


def test_locate_finds_every_pack() -> None:
    packs = make_packs(2 * PACKS_PER_BATCH + 5)
    shard = read(encode(packs))
    for pack in (0, 1, PACKS_PER_BATCH - 1, PACKS_PER_BATCH, 2 * PACKS_PER_BATCH, len(packs) - 1):
        batch, row = shard.locate(pack)
        assert batch.input_ids[row].tolist() == packs.input_ids[pack].tolist()
        found, expected = batch.doc_position[batch.documents(row)], packs.doc_position[packs.documents(pack)]
        assert found.tolist() == expected.tolist()


@settings(max_examples=30)
@given(st.integers(0, 20), st.booleans(), st.integers(0, 2**32))
def test_the_bytes_depend_on_the_packs_alone(count: int, weights: bool, seed: int) -> None:
    packs = make_packs(count, weights=weights, seed=seed)
    copies = {field.name: getattr(packs, field.name) for field in fields(packs)}
    copies = {name: None if array is None else np.copy(array) for name, array in copies.items()}
    assert encode(packs) == encode(Packs(**copies))


def test_the_columns_and_types_are_pinned() -> None:
    schema = shard_schema(META, weights=True)
    assert schema.names == [*COLUMNS, "weight"]
    assert [str(field.type.value_type) for field in schema] == [
        "int32",
        "uint8",
        "int32",
        "int32",
        "int64",
        "int32",
        "float",
    ]
    assert [getattr(field.type, "list_size", None) for field in schema] == [8, 8, None, None, None, None, 8]
    assert not any(field.nullable or field.type.value_field.nullable for field in schema)


@pytest.mark.parametrize("weights", [False, True])
def test_polars_reads_every_column(tmp_path: Path, weights: bool) -> None:
    packs = make_packs(PACKS_PER_BATCH + 3, weights=weights)
    path = tmp_path / "shard.arrow"
    path.write_bytes(encode(packs))
    frame = polars.read_ipc(path)
    assert frame.columns == COLUMNS + ["weight"] * weights
    assert frame.schema["input_ids"] == polars.Array(polars.Int32, SEQ_LEN)
    assert frame.schema["channel"] == polars.Array(polars.UInt8, SEQ_LEN)
    assert frame.schema["doc_lengths"] == polars.List(polars.Int32)
    assert frame.schema["doc_position"] == polars.List(polars.Int64)
    assert frame.to_dicts() == rows_of(packs)


def test_the_footer_holds_the_metadata(tmp_path: Path) -> None:
    path = tmp_path / "shard.arrow"
    path.write_bytes(encode(make_packs(2)))
    assert set(polars.read_ipc_schema(path)) == set(COLUMNS)
    assert pa.ipc.open_file(pa.memory_map(str(path))).schema.metadata == {
        b"packline.format": b"1",
        b"packline.seq_len": b"8",
        b"packline.recipe_id": b"b" * 64,
        b"packline.pad_id": b"7",
        b"packline.tokenizer_sha256": b"c" * 64,
    }


def test_a_mapped_shard_is_not_copied(tmp_path: Path) -> None:
    packs = make_packs(3 * PACKS_PER_BATCH, weights=True)
    path = tmp_path / "shard.arrow"
    path.write_bytes(encode(packs))
    before = pa.total_allocated_bytes()
    shard = map_shard(path)
    batch = shard.batches[1]
    columns = [getattr(batch, field.name) for field in fields(batch)]
    assert pa.total_allocated_bytes() - before < 1024
    assert packs.input_ids.nbytes > 2**18
    for column in columns:
        assert column is batch.doc_offsets or not column.flags.owndata
        assert column is batch.doc_offsets or not column.flags.writeable
    assert shard_rows(shard) == rows_of(packs)


def test_bodies_are_not_compressed() -> None:
    packs = replace(make_packs(64), input_ids=np.full((64, SEQ_LEN), 7, np.int32))
    data = encode(packs)
    assert packs.input_ids.tobytes() in data
    assert packs.channel.tobytes() in data


def test_every_way_to_cut_a_shard_short_is_seen() -> None:
    data = encode(make_packs(3))
    for length in range(len(data)):
        with pytest.raises(DatasetError, match="here"):
            read(data[:length])


FLIP_EVERY_BYTE = """
import sys
import pyarrow as pa
from schemas.errors import DatasetError
from schemas.shard import read_shard

whole = open(sys.argv[1], "rb").read()
refused = 0
for place in range(len(whole)):
    for mask in (1, 128, 255):
        flipped = bytearray(whole)
        flipped[place] ^= mask
        try:
            read_shard(pa.py_buffer(bytes(flipped)), "here")
        except DatasetError:
            refused += 1
assert "pandas" not in sys.modules  # a quarter of a second of every start
print(refused)
"""


def test_a_flipped_byte_is_refused_or_read_but_never_another_error(tmp_path: Path) -> None:
    """In a process of its own: Arrow aborts on offsets that point beyond a column."""
    path = tmp_path / "shard.arrow"
    path.write_bytes(encode(make_packs(3)))
    command = [sys.executable, "-c", FLIP_EVERY_BYTE, str(path)]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr[-300:]
    assert int(result.stdout) > 1000


def foreign(schema: pa.Schema) -> bytes:
    sink = BytesIO()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch([pa.array([], field.type) for field in schema], schema=schema))
    return sink.getvalue()


def foreign_files() -> dict[str, bytes]:
    schema = shard_schema(META, weights=False)
    metadata = META.encode()
    without = {key: value for key, value in metadata.items() if key != "packline.pad_id"}
    nullable = pa.schema([field.with_nullable(True) for field in schema], metadata)
    stream = BytesIO()
    with pa.ipc.new_stream(stream, schema) as writer:
        writer.write_batch(pa.record_batch([pa.array([], field.type) for field in schema], schema=schema))
    return {
        "empty": b"",
        "text": b"no shard at all\n" * 9,
        "parquet": b"PAR1" + bytes(64) + b"PAR1",
        "stream": stream.getvalue(),
        "no metadata": foreign(schema.remove_metadata()),
        "other format": foreign(schema.with_metadata({**metadata, "packline.format": "2"})),
        "a key missing": foreign(schema.with_metadata(without)),
        "a key that is no number": foreign(schema.with_metadata({**metadata, "packline.seq_len": "many"})),
        "another length": foreign(schema.with_metadata({**metadata, "packline.seq_len": "9"})),
        "a length of zero": foreign(schema.with_metadata({**metadata, "packline.seq_len": "0"})),
        "a negative length": foreign(schema.with_metadata({**metadata, "packline.seq_len": "-1"})),
        "a column too few": foreign(schema.remove(3)),
        "a column too many": foreign(schema.append(pa.field("more", pa.int32()))),
        "columns in another order": foreign(pa.schema(list(schema)[::-1], metadata)),
        "nullable columns": foreign(nullable),
        "other types": foreign(schema.set(1, pa.field("channel", pa.list_(pa.int8(), SEQ_LEN), nullable=False))),
    }


@pytest.mark.parametrize("name", foreign_files())
def test_foreign_files_are_refused(name: str) -> None:
    with pytest.raises(DatasetError, match="here"):
        read(foreign_files()[name])


def test_a_short_batch_before_the_last_is_refused() -> None:
    schema = shard_schema(META, weights=False)
    table = pa.ipc.open_file(encode(make_packs(4))).read_all()
    sink = BytesIO()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(table, max_chunksize=2)
    with pytest.raises(DatasetError, match="a batch before the last"):
        read(sink.getvalue())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"gone\.arrow.*missing"):
        map_shard(tmp_path / "gone.arrow")
    with pytest.raises(DatasetError, match=tmp_path.name):
        map_shard(tmp_path)
