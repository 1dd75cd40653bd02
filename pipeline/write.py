"""A packed block to its files: shards and rejects, named by what they hold, each written whole or not at all."""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import zstandard

from pipeline.assemble import PackedBlock
from pipeline.block_info import BlockInfo
from pipeline.blocks import BlockKey
from schemas.manifest import RejectFile, ShardFile, add_histograms
from schemas.rejects import Reason, Reject
from schemas.shard import Packs, ShardMeta, write_shard
from schemas.store import Folder


def write_block(
    block: PackedBlock, meta: ShardMeta, unit_sha256: str, output: Folder, generation_tag: str = ""
) -> BlockInfo:
    name = block_name(block.key, generation_tag)
    return BlockInfo(
        unit=block.key.unit,
        block=block.key.block,
        last=block.key.last,
        unit_sha256=unit_sha256,
        input_bytes=block.bytes,
        rows={str(source): count for source, count in block.rows.items()},
        rejects=_count_reasons(block.rejects),
        channels={} if block.packs is None else channels_by_source(block.packs),
        holdout_channels={} if block.holdout is None else add_histograms(channels_by_source(block.holdout).values()),
        truncated=block.truncated,
        straddling=block.straddling,
        turns=block.turns,
        certificate=block.certificate,
        difference=block.difference,
        shard=_write_packs(block.packs, meta, f"shards/{name}", output),
        holdout=_write_packs(block.holdout, meta, f"holdout/{name}", output),
        reject_file=_write_rejects(block.rejects, f"rejects/{name}", output),
    )


def block_name(key: BlockKey, generation_tag: str) -> str:
    """What the names of a block's files begin with."""
    return f"{generation_tag}-{key.name}" if generation_tag else key.name


def _write_packs(packs: Packs | None, meta: ShardMeta, stem: str, output: Folder) -> ShardFile | None:
    if packs is None:
        return None
    sink = pa.BufferOutputStream()
    write_shard(packs, meta, sink)
    data = memoryview(sink.getvalue())
    name, sha256 = _write_named(stem, ".arrow", data, output)
    return ShardFile(
        name=name,
        bytes=len(data),
        sha256=sha256,
        packs=len(packs),
        documents=len(packs.doc_lengths),
        tokens=int(packs.doc_lengths.sum()),
    )


def _write_rejects(rejects: Sequence[Reject], stem: str, output: Folder) -> RejectFile | None:
    """JSON lines of source, position, reason and detail, in the order of the rows."""
    if not rejects:
        return None
    ordered = sorted(rejects, key=lambda reject: (reject.source, reject.position))
    lines = b"".join(orjson.dumps(reject, option=orjson.OPT_APPEND_NEWLINE) for reject in ordered)
    data = zstandard.ZstdCompressor(level=3, write_checksum=True).compress(lines)
    name, sha256 = _write_named(stem, ".jsonl.zst", data, output)
    return RejectFile(name=name, bytes=len(data), sha256=sha256, rows=len(rejects))


def _write_named(stem: str, suffix: str, data: bytes | memoryview, output: Folder) -> tuple[str, str]:
    sha256 = hashlib.sha256(data).hexdigest()
    name = f"{stem}-{sha256[:8]}{suffix}"
    output.write(name, data)  # also where it is there: its time says that a build has it, which `clean` goes by
    return name, sha256


def _count_reasons(rejects: Sequence[Reject]) -> dict[Reason, int]:
    counts: dict[Reason, int] = {}
    for reject in rejects:
        counts[reject.reason] = counts.get(reject.reason, 0) + 1
    return dict(sorted(counts.items()))


def channels_by_source(packs: Packs) -> dict[str, dict[str, int]]:
    """Histograms of the channel byte over the documents' tokens, by source index."""
    ends = np.concatenate([[0], np.cumsum(packs.doc_lengths, dtype=np.int64)])
    padding = np.arange(len(packs)) * packs.channel.shape[1] - ends[packs.doc_offsets[:-1]]  # before each pack
    starts = ends[:-1] + np.repeat(padding, np.diff(packs.doc_offsets))
    channels = packs.channel.reshape(-1).data
    histograms = {}
    for source in np.unique(packs.doc_source).tolist():
        chosen = np.flatnonzero(packs.doc_source == source)
        slices = map(slice, starts[chosen].tolist(), (starts + packs.doc_lengths)[chosen].tolist())
        counts = count_bytes(b"".join(map(channels.__getitem__, slices)))
        histograms[str(source)] = {str(byte): int(counts[byte]) for byte in np.flatnonzero(counts).tolist()}
    return histograms


def count_bytes(data: bytes) -> npt.NDArray[np.int64]:
    """int64[256]. Counted are pairs of bytes, which are half as many."""
    pairs = np.bincount(np.frombuffer(data, np.uint16, len(data) // 2), minlength=2**16).reshape(256, 256)
    counts: npt.NDArray[np.int64] = pairs.sum(axis=0) + pairs.sum(axis=1)
    for byte in data[len(data) & ~1 :]:
        counts[byte] += 1
    return counts
