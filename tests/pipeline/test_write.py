"""Writing a block: names by content, the same files every time, and counts that a slow loop agrees with."""

import hashlib
import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pipeline.assemble import PackedBlock, PackSettings, pack_documents
from pipeline.block_info import BlockInfo
from pipeline.blocks import BlockKey
from pipeline.token_block import TokenBlock
from pipeline.write import channels_by_source, count_bytes, write_block
from schemas.channels import LEGAL
from schemas.rejects import Reason, Reject
from schemas.shard import Packs, ShardMeta, map_shard, tokens_per_pack
from schemas.store import Folder

SEQ_LEN, PAD_ID = 16, 99
META = ShardMeta(SEQ_LEN, "b" * 64, PAD_ID, "c" * 64)
UNIT_SHA256 = "e" * 64
LEGAL_BYTES = np.flatnonzero(LEGAL)


def make_tokens(rng: np.random.Generator, documents: int) -> TokenBlock:
    lengths = rng.integers(1, SEQ_LEN + 1, documents)
    tokens = int(lengths.sum())
    return TokenBlock(
        key=BlockKey(12, 3, True),
        input_ids=rng.integers(0, PAD_ID, tokens).astype(np.int32),
        channel=rng.choice(LEGAL_BYTES, tokens).astype(np.uint8),
        weight=None,
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
        sources=rng.integers(0, 3, documents).astype(np.int32),
        positions=np.arange(documents, dtype=np.int64),
        pieces=np.zeros(documents, np.int32),
        rejects=[
            Reject(1, 50, Reason.EMPTY, "\u00fc"),
            Reject(0, 70, Reason.TOO_LONG, "x"),
            Reject(1, 7, Reason.EMPTY, ""),
        ],
        rows={0: 30, 1: 20},
        bytes=1234,
        truncated=2,
        straddling=1,
    )


def make_block(documents: int = 40, holdout: float = 0.3) -> PackedBlock:
    settings = PackSettings(SEQ_LEN, PAD_ID, seed=5, holdout=holdout, urls=("a", "b", "c"))
    return pack_documents(make_tokens(np.random.default_rng(11), documents), settings)


def write(block: PackedBlock, folder: Path) -> BlockInfo:
    return write_block(block, META, UNIT_SHA256, Folder(str(folder)))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def slow_channels(packs: Packs) -> dict[str, dict[str, int]]:
    counts: dict[int, Counter[int]] = {}
    for pack in range(len(packs)):
        at = 0
        for document in range(int(packs.doc_offsets[pack]), int(packs.doc_offsets[pack + 1])):
            length = int(packs.doc_lengths[document])
            source = int(packs.doc_source[document])
            counts.setdefault(source, Counter()).update(packs.channel[pack, at : at + length].tolist())
            at += length
    return {str(source): {str(byte): count for byte, count in found.items()} for source, found in counts.items()}


@given(st.integers(0, 2**32), st.integers(1, 30))
def test_channels_by_source_is_what_a_loop_counts(seed: int, documents: int) -> None:
    settings = PackSettings(SEQ_LEN, PAD_ID, seed=0, holdout=0, urls=("a", "b", "c"))
    packs = pack_documents(make_tokens(np.random.default_rng(seed), documents), settings).packs
    assert packs is not None
    found = channels_by_source(packs)
    assert found == slow_channels(packs)
    assert all(list(histogram) == sorted(histogram, key=int) for histogram in found.values())
    assert sum(sum(histogram.values()) for histogram in found.values()) == packs.doc_lengths.sum()


@given(st.binary(max_size=9))
def test_bytes_are_counted(data: bytes) -> None:
    assert {byte: count for byte, count in enumerate(count_bytes(data).tolist()) if count} == Counter(data)


@given(st.integers(0, 2**32), st.integers(1, 30))
def test_tokens_per_pack(seed: int, documents: int) -> None:
    settings = PackSettings(SEQ_LEN, PAD_ID, seed=0, holdout=0, urls=("a", "b", "c"))
    packs = pack_documents(make_tokens(np.random.default_rng(seed), documents), settings).packs
    assert packs is not None
    slow = [int(packs.doc_lengths[packs.documents(pack)].sum()) for pack in range(len(packs))]
    assert tokens_per_pack(packs).tolist() == slow


def test_a_name_says_what_is_in_the_file(tmp_path: Path) -> None:
    info = write(make_block(), tmp_path)
    assert len(info.files) == 3
    written = contents(tmp_path)
    assert set(written) == {file.name for file in info.files}
    for file in info.files:
        data = written[file.name]
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.bytes, file.sha256)
        assert f"/00012-003-{file.sha256[:8]}." in file.name
    assert [file.name.partition("/")[0] for file in info.files] == ["shards", "holdout", "rejects"]


def test_what_is_told_of_a_block(tmp_path: Path) -> None:
    block = make_block()
    info = write(block, tmp_path)
    assert block.packs is not None
    assert block.holdout is not None
    assert info.key == block.key
    assert info.rows == {"0": 30, "1": 20}
    assert info.rejects == {Reason.EMPTY: 2, Reason.TOO_LONG: 1}
    assert list(info.rejects) == sorted(info.rejects)
    assert info.channels == slow_channels(block.packs)
    held_out: Counter[str] = Counter()
    for histogram in slow_channels(block.holdout).values():
        held_out.update(histogram)
    assert info.holdout_channels == held_out
    assert (info.unit_sha256, info.input_bytes, info.truncated, info.straddling) == (UNIT_SHA256, 1234, 2, 1)
    for packs, file in ((block.packs, info.shard), (block.holdout, info.holdout)):
        assert file is not None
        assert (file.packs, file.documents) == (len(packs), len(packs.doc_lengths))
        assert file.tokens == packs.doc_lengths.sum()
        shard = map_shard(tmp_path / file.name)
        assert shard.meta == META
        assert shard.batches[0].input_ids.tolist() == packs.input_ids.tolist()


def test_writing_twice_gives_the_same_files(tmp_path: Path) -> None:
    first = write(make_block(), tmp_path / "a")
    files = contents(tmp_path / "a")
    assert write(make_block(), tmp_path / "a") == first
    assert write(make_block(), tmp_path / "b") == first
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == files


def test_a_file_that_is_there_is_written_again_and_counts_as_young(tmp_path: Path) -> None:
    info = write(make_block(), tmp_path)
    paths = [tmp_path / file.name for file in info.files]
    assert len(paths) > 1
    for path in paths:
        os.utime(path, (0, 0))
    paths[0].write_bytes(paths[0].read_bytes()[:-1])
    assert write(make_block(), tmp_path) == info
    for file, path in zip(info.files, paths, strict=True):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256
        assert path.stat().st_mtime > 0


@pytest.mark.parametrize("field", ["input_ids", "channel", "doc_position"])
def test_other_content_has_another_name(tmp_path: Path, field: str) -> None:
    block = make_block()
    assert block.packs is not None
    changed: npt.NDArray[Any] = getattr(block.packs, field).copy()
    changed.flat[0] += 1
    other = replace(block, packs=replace(block.packs, **{field: changed}))
    one, two = write(block, tmp_path).shard, write(other, tmp_path).shard
    assert one is not None
    assert two is not None
    assert one.name != two.name
    assert {one.name, two.name} <= set(contents(tmp_path))


def test_rejects_are_lines_in_the_order_of_the_rows(tmp_path: Path) -> None:
    block = make_block()
    info = write(block, tmp_path)
    assert info.reject_file is not None
    data = (tmp_path / info.reject_file.name).read_bytes()
    lines = zstandard.ZstdDecompressor().decompress(data).decode().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"source": 0, "position": 70, "reason": "too_long", "detail": "x"},
        {"source": 1, "position": 7, "reason": "empty", "detail": ""},
        {"source": 1, "position": 50, "reason": "empty", "detail": "\u00fc"},
    ]
    assert info.reject_file.rows == 3
    backwards = replace(block, rejects=block.rejects[::-1])
    assert write(backwards, tmp_path / "b").reject_file == info.reject_file


def test_a_block_without_documents_gives_no_file(tmp_path: Path) -> None:
    info = write(replace(make_block(0), rejects=[]), tmp_path)
    assert info.files == []
    assert info.channels == {}
    assert info.holdout_channels == {}
    assert contents(tmp_path) == {}
