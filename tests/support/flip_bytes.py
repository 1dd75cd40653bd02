"""Reads many damaged copies of small tables and shards, and tells how many could be read. Dies of a crash in Arrow.

python flip_bytes.py FOLDER COPIES
"""

import io
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hostile_files import read_source

from pipeline.config import OpenAI
from pipeline.convert import convert_rows, make_converter
from schemas.errors import DatasetError
from schemas.shard import Packs, ShardMeta, map_shard, write_shard


def table() -> pa.Table:
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a" * 9}]
    rows = [{"messages": chat, "n": n, "text": None if n % 3 else f"t{n}"} for n in range(40)]
    return pa.Table.from_pylist(rows).append_column("kind", pa.array(["x", "y"] * 20).dictionary_encode())


def parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(table(), sink, row_group_size=16, compression="zstd")
    return sink.getvalue()


def arrow(*, stream: bool, compression: str | None = None) -> bytes:
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, table().schema, options=options) as writer:
        writer.write_table(table(), max_chunksize=16)
    return sink.getvalue()


def shard() -> bytes:
    sink = io.BytesIO()
    documents = [
        np.full(7, value, dtype) for value, dtype in ((2, np.int32), (0, np.int32), (5, np.int64), (0, np.int32))
    ]
    tokens = np.ones((5, 16), np.int32)
    packs = Packs(tokens, tokens.astype(np.uint8), np.array([0, 1, 3, 4, 6, 7], np.int32), *documents, None)
    write_shard(packs, ShardMeta(16, "a" * 64, 0, "b" * 64), sink)
    return sink.getvalue()


FILES: dict[str, Callable[[], bytes]] = {
    "rows.parquet": parquet,
    "file.arrow": lambda: arrow(stream=False),
    "stream.arrow": lambda: arrow(stream=True),
    "lz4.arrow": lambda: arrow(stream=False, compression="lz4"),
    "shard": shard,
}


def damaged(data: bytes, copies: int) -> Iterator[bytes]:
    rng = random.Random(len(data))
    for _ in range(copies):
        copy = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 4))):
            copy[rng.randrange(len(copy))] = rng.choice((0, 127, 128, 255, rng.randrange(256)))
        yield bytes(copy[: rng.randrange(len(copy))] if rng.random() < 0.05 else copy)


def read_table(path: Path) -> None:
    converter = make_converter(OpenAI(type="openai"), loss_weights=False)
    for block in read_source(path, block_bytes=1500, max_line_bytes=2**20):
        made = convert_rows(block, [converter], [0])
        assert len(list(made.documents)) + len(made.rejects) == len(block.rows) + len(block.rejects)


def read_shard(path: Path) -> None:
    for packs in map_shard(path).batches:
        for array in (packs.input_ids, packs.channel, packs.doc_source, packs.doc_position, packs.doc_piece):
            array.sum()
        assert all(packs.doc_lengths[packs.documents(pack)].sum() <= 16 for pack in range(len(packs)))


def main(folder: Path, copies: int) -> None:
    seen: Counter[str] = Counter()
    for name, make in FILES.items():
        for data in damaged(make(), copies):
            (folder / name).write_bytes(data)
            try:
                (read_shard if name == "shard" else read_table)(folder / name)
                seen[f"{name} read"] += 1
            except DatasetError:
                seen[f"{name} refused"] += 1
    for name, count in seen.items():
        print(f"{name}: {count}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
