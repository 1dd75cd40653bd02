"""The data set that is built again and again: small, but with all that a large one has."""

import io
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
import zstandard

ROOT = Path(__file__).parents[2]
WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
OTHER_RECIPE = ("--set", "seq_len=192")


def make_sources() -> dict[str, bytes]:
    """By name: plain JSON lines that several units read, compressed ones and CSV that give one unit several blocks,
    Parquet of several row groups. Some rows are rejects."""
    rng = random.Random(0)
    chats = [json.dumps({"messages": _turns(rng)}).encode() for _ in range(40)]
    chats[7] = b'{"messages": [{"role": "user", "cont'
    chats[29] = b'{"messages": "none"}'
    texts = [json.dumps({"text": " ".join(_words(rng, 30))}).encode() for _ in range(60)]
    texts[11] = b'{"text": null}'
    return {
        "chats.jsonl": b"".join(line + b"\n" for line in chats),
        "texts.jsonl.zst": zstandard.ZstdCompressor().compress(b"".join(line + b"\n" for line in texts)),
        "pairs.parquet": _parquet([{"q": " ".join(_words(rng, 20)), "a": " ".join(_words(rng, 5))} for _ in range(40)]),
        "sums.csv": ("q,a\n" + "".join(f"{' '.join(_words(rng, 30))},{n}\n" for n in range(120))).encode(),
    }


def _words(rng: random.Random, most: int) -> list[str]:
    return rng.choices(WORDS, k=rng.randint(1, most))


def _turns(rng: random.Random) -> list[dict[str, str]]:
    turns = []
    for _ in range(rng.choice((1, 1, 2))):
        turns.append({"role": "user", "content": " ".join(_words(rng, 15))})
        turns.append({"role": "assistant", "content": " ".join(_words(rng, 10))})
    return turns


def _parquet(rows: list[dict[str, str]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=20)
    return sink.getvalue()


def make_config(source_folder: str, output: str, profile: str | None) -> str:
    """YAML. The folders are URLs."""
    transforms: dict[str, dict[str, Any]] = {
        "chats.jsonl": {"type": "openai"},
        "texts.jsonl.zst": {"type": "text"},
        "pairs.parquet": {"type": "columns", "input": "q", "output": "a"},
        "sums.csv": {"type": "columns", "input": "q", "output": "a"},
    }
    return yaml.safe_dump(
        {
            "output": output,
            "output_profile": profile,
            "seq_len": 128,
            "sources": [
                {"path": f"{source_folder}/{name}", "transform": transform, "profile": profile}
                for name, transform in transforms.items()
            ],
            "tokenizer": {"path": str(ROOT / "examples" / "tokenizer")},
            "engine": "reference",
            "certify": "none",
            "block_bytes": 4096,
            "max_reject_fraction": 0.5,
            "too_long": "truncate",
            "holdout": 0.1,
            "clock": "2026-01-02",
        }
    )
