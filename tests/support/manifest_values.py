"""A small manifest as JSON values, to be changed by tests."""

from typing import Any

TURNS = {"trained": 5, "terminated": 4, "reasoning_dropped": 1, "not_served": 2, "cut": 1}


def manifest_values() -> dict[str, Any]:
    shard = {"bytes": 10, "sha256": "d" * 64, "packs": 2, "documents": 3, "tokens": 20}
    return {
        "format": "1",
        "id": "a" * 64,
        "recipe_id": "b" * 64,
        "seq_len": 16,
        "vocab_size": 50,
        "bos_id": None,
        "eos_id": 1,
        "pad_id": 0,
        "end_ids": [1, 2],
        "tokenizer": {"kind": "tiktoken", "sha256": "c" * 64, "engine": "tiktoken", "libraries": {"tiktoken": "0.7"}},
        "chat_template": {"sha256": "e" * 64, "origin": "tokenizer"},
        "clock": "2024-07-26",
        "config": {"seq_len": 16, "nested": [{"key": None}, 1.5, "\u00fc"]},
        "sources": [{"path": "rows.jsonl", "setting": 0, "size": 99, "etag": None, "mtime": "1", "rows": 7}],
        "shards": [{"name": "shards/00000-000-dddddddd.arrow", **shard}],
        "holdout": {
            "share": 0.1,
            "shards": [{"name": "holdout/00000-000-dddddddd.arrow", **shard}],
            "channels": {"13": 20},
        },
        "rejects": {
            "counts": {"empty": 1},
            "files": [{"name": "rejects/00000-000-dd.jsonl.zst", "bytes": 5, "sha256": "f" * 64, "rows": 1}],
        },
        "channels": {"total": {"13": 18, "141": 2}, "sources": {"0": {"13": 18, "141": 2}}},
        "turns": {"total": dict(TURNS), "sources": {"0": dict(TURNS)}},
        "totals": {
            "rows": 7,
            "rejects": 1,
            "packs": 2,
            "documents": 3,
            "tokens": 20,
            "truncated": 0,
            "straddling": 0,
        },
        "fill": 0.625,
        "certificate": None,
        "generation": 0,
        "parent": None,
    }
