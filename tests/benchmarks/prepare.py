"""What the pipeline does in a second: the whole process, the work phase, and where the time goes stage by stage.

Rows are conversations made of the Python source of the installed packages: real text, the same for one installation,
never repeated. Run by `make bench`; figures are ratios to the bare encoder over the same text in the same run.
"""

import argparse
import json
import random
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.assemble import PackSettings, pack_documents
from pipeline.block_info import unit_sha256
from pipeline.build_plan import plan_build
from pipeline.config import BuildConfig
from pipeline.convert import convert_rows
from pipeline.encoders.base import Encoder
from pipeline.launch import build
from pipeline.readers import read_blocks
from pipeline.recipe import load_tools
from pipeline.tokenize import tokenize_documents
from pipeline.write import write_block
from schemas.shard import ShardMeta
from schemas.store import Folder

QWEN = {"path": "package://dashscope/resources/qwen.tiktoken", "preset": "qwen2.5"}


def code_chats(megabytes: float) -> Iterator[str]:
    """JSON lines of one to three turns that show a stretch of a source file."""
    rng = random.Random(0)
    size = 0
    for file in sorted(Path(sysconfig.get_paths()["purelib"]).rglob("*.py")):
        text = file.read_text("utf-8", errors="ignore")
        at = 0
        while at < len(text) and size < megabytes * 1e6:
            messages = []
            for _ in range(rng.choice((1, 1, 2, 3))):
                length = int(rng.lognormvariate(6.3, 0.9)) + 50
                messages.append({"role": "user", "content": f"Show {file.name} from character {at}."})
                messages.append({"role": "assistant", "content": text[at : at + length] or "The end."})
                at += length
            line = json.dumps({"messages": messages}, ensure_ascii=False) + "\n"
            size += len(line.encode())
            yield line


def encode_all(encoder: Encoder, texts: list[str]) -> None:
    for text in texts:
        encoder.encode(text, [])


def timed(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def stage_seconds(config: BuildConfig) -> dict[str, float]:
    """One process, block by block, without Beam."""
    plan = plan_build(config)
    tools = load_tools(plan.recipe)
    recipe, output = plan.recipe, Folder(config.output)
    meta = ShardMeta(config.seq_len, recipe.id, recipe.pad_id, recipe.tokenizer_sha256)
    settings = PackSettings(config.seq_len, recipe.pad_id, config.seed, 0.0, plan.urls)
    seconds = dict.fromkeys(("encode alone", "read", "convert", "render and tokenize", "pack", "write"), 0.0)

    def add(stage: str, began: float) -> float:
        now = time.perf_counter()
        seconds[stage] += now - began
        return now

    for unit in plan.units:
        now = time.perf_counter()
        for rows in read_blocks(unit, config.block_bytes, config.max_line_bytes):
            now = add("read", now)
            documents = convert_rows(rows, plan.converters, plan.setting_of_source)
            now = add("convert", now)
            tokens = tokenize_documents(documents, tools.documents)
            now = add("render and tokenize", now)
            packed = pack_documents(tokens, settings)
            now = add("pack", now)
            write_block(packed, meta, unit_sha256(unit), output)
            add("write", now)
            texts = [message["content"] for row in rows.rows for message in row["messages"]]
            seconds["encode alone"] += timed(partial(encode_all, tools.tokenizer.encoder, texts))
            now = time.perf_counter()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--megabytes", type=float, default=10)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rows = Path(scratch) / "rows.jsonl"
        rows.write_text("".join(code_chats(arguments.megabytes)), "utf-8")
        megabytes = rows.stat().st_size / 1e6
        sources = [{"path": str(rows), "transform": {"type": "openai"}}]
        values: dict[str, Any] = {
            "seq_len": 2048,
            "sources": sources,
            "tokenizer": QWEN,
            "too_long": "truncate",
            "block_bytes": "4MiB",
        }
        stages = stage_seconds(BuildConfig(output=f"{scratch}/stages", **values))
        alone = stages.pop("encode alone")
        print(f"{megabytes:.1f} MB of code chats, one process, MB/s and share of the time")
        for stage, seconds in stages.items():
            print(f"  {stage:<20} {megabytes / seconds:8.1f}  {seconds / sum(stages.values()):6.1%}")
        print(f"  {'all stages':<20} {megabytes / sum(stages.values()):8.1f}")
        ratio = alone / sum(stages.values())
        print(f"  {'the bare encoder':<20} {megabytes / alone:8.1f}  all stages / encoder = {ratio:.2f}")
        whole = timed(lambda: build(BuildConfig(output=f"{scratch}/whole", **values), workers=arguments.workers))
        print(f"whole build, {arguments.workers} workers: {whole:.1f} s, {megabytes / whole:.2f} MB/s")


if __name__ == "__main__":
    main()
