"""Blocks as a build would have left them, without a build: names, counts and hashes, but no rows."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pipeline.block_info import BlockInfo, BlockState
from pipeline.turns import TurnAudit
from schemas.manifest import (
    Channels,
    Holdout,
    Manifest,
    Parent,
    RejectFile,
    Rejects,
    ShardFile,
    Source,
    TokenizerFacts,
    Totals,
    TurnCounts,
    Turns,
)

RECIPE = "b" * 64
CHANNELS = {str(byte): 500_000 + byte for byte in (1, 2, 3, 10, 11, 19, 35, 75, 99, 139)}
TURNS = TurnCounts(trained=12_000, terminated=12_000)
TIME = datetime(2026, 1, 1, tzinfo=UTC)


def sha256(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def make_info(unit: int, source: int = 0, *, recipe: str = RECIPE, tag: str = "", files: bool = True) -> BlockInfo:
    """The only block of a unit: a shard, and with `files` a holdout shard and a reject file as well."""
    digest = sha256(unit, recipe, tag)
    name = f"{f'{tag}-' if tag else ''}{unit:05}-000-{digest[:8]}"
    shard = {"sha256": digest, "packs": 1000, "documents": 12_000, "tokens": 8_000_000}
    return BlockInfo(
        unit=unit,
        block=0,
        last=True,
        unit_sha256=sha256(unit),
        input_bytes=50_000_000,
        rows={str(source): 12_003},
        rejects={"too_long": 3} if files else {},  # type: ignore[dict-item]
        channels={str(source): CHANNELS},
        holdout_channels=CHANNELS if files else {},
        truncated=0,
        straddling=3,
        turns=TurnAudit(counts={str(source): TURNS}),
        certificate=None,
        difference=None,
        shard=ShardFile(name=f"shards/{name}.arrow", bytes=41_000_000, **shard),
        holdout=ShardFile(name=f"holdout/{name}.arrow", bytes=410_000, **shard) if files else None,
        reject_file=RejectFile(name=f"rejects/{name}.jsonl.zst", bytes=400, sha256=digest, rows=3) if files else None,
    )


def make_state(info: BlockInfo) -> BlockState:
    return BlockState(info=info, process="host:1", peak_memory=10**9, begun=TIME, finished=TIME)


def make_source(number: int) -> Source:
    return Source(path=f"s3://bucket/raw/part-{number:05}.jsonl", size=10**9, etag=sha256(number)[:32], rows=240_060)


def make_manifest(
    infos: Sequence[BlockInfo], sources: int = 1, generation: int = 0, parent: Parent | None = None, **changes: Any
) -> Manifest:
    """What names the files of these blocks; its sums are not theirs."""
    held_out = [info.holdout for info in infos if info.holdout]
    counts = dict.fromkeys(Totals.model_fields, 0)
    values = {
        "id": sha256(generation, len(infos)),
        "recipe_id": RECIPE,
        "seq_len": 8192,
        "vocab_size": 151_936,
        "bos_id": None,
        "eos_id": 1,
        "pad_id": 1,
        "end_ids": [1],
        "tokenizer": TokenizerFacts(kind="tiktoken", sha256=RECIPE, engine="tiktoken", libraries={}),
        "chat_template": None,
        "clock": "2026-01-01",
        "config": {},
        "sources": [make_source(number) for number in range(sources)],
        "shards": [info.shard for info in infos if info.shard],
        "holdout": Holdout(share=0.01, shards=held_out, channels=CHANNELS) if held_out else None,
        "rejects": Rejects(counts={}, files=[info.reject_file for info in infos if info.reject_file]),
        "channels": Channels(total=CHANNELS, sources={str(number): CHANNELS for number in range(sources)}),
        "turns": Turns(total=TURNS, sources={str(number): TURNS for number in range(sources)}),
        "totals": Totals(**counts | {"packs": 1000 * len(infos), "tokens": 8_000_000 * len(infos)}),
        "fill": 0.98,
        "certificate": None,
        "generation": generation,
        "parent": parent,
    }
    return Manifest.model_validate(values | changes)
