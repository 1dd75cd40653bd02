"""Where the time of a build goes, stage by stage, in one process without Beam, as a line of JSON.

    python tests/benchmarks/stages.py ROWS.jsonl TOKENIZER.json [--functions]

TOKENIZER.json is the config's `tokenizer`. `--functions` prints what a profiler sees, which a stage's own functions are
slowed down by.
"""

import argparse
import cProfile
import hashlib
import json
import pstats
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pipeline.assemble import PackSettings, pack_documents
from pipeline.block_info import unit_sha256
from pipeline.build_plan import BuildPlan, plan_build, with_engine
from pipeline.config import BuildConfig
from pipeline.convert import convert_rows
from pipeline.readers import read_blocks
from pipeline.recipe import load_tools
from pipeline.tokenize import tokenize_documents
from pipeline.worker_pool import collect_rarely
from pipeline.write import write_block
from schemas.shard import ShardMeta
from schemas.store import Folder

Made = TypeVar("Made")


class Stopwatch:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time(self, stage: str, function: Callable[..., Made], *arguments: Any) -> Made:
        began = time.perf_counter()
        made = function(*arguments)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began
        return made


def run_stages(plan: BuildPlan, watch: Stopwatch) -> None:
    """Every block of the plan through every step, as a worker does it."""
    recipe, config = plan.recipe, plan.recipe.config
    tools = load_tools(recipe)
    meta = ShardMeta(config.seq_len, recipe.id, recipe.pad_id, recipe.tokenizer_sha256)
    settings = PackSettings(config.seq_len, recipe.pad_id, config.seed, config.holdout, plan.urls)
    output = Folder(config.output)
    batch = tools.documents.batch
    assert batch is not None
    batch.encode = partial(watch.time, "encode", batch.encode)  # type: ignore[method-assign]
    for unit in plan.units:
        blocks = iter(read_blocks(unit, config.block_bytes, config.max_line_bytes))
        while (rows := watch.time("read", next, blocks, None)) is not None:
            documents = watch.time("convert", convert_rows, rows, plan.converters, plan.setting_of_source)
            tokens = watch.time("render and assemble", tokenize_documents, documents, tools.documents)
            packed = watch.time("pack", pack_documents, tokens, settings)
            info = watch.time("write, with hash", write_block, packed, meta, unit_sha256(unit), output)
            for file in info.files:
                watch.time("hash alone", hashlib.sha256, output.read(file.name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("rows", type=Path)
    parser.add_argument("tokenizer", type=json.loads)
    parser.add_argument("--seq-len", type=int, default=2048)
    parser.add_argument("--functions", action="store_true")
    arguments = parser.parse_args()
    collect_rarely()
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as scratch:
        config = BuildConfig(
            output=scratch,
            seq_len=arguments.seq_len,
            sources=[{"path": str(arguments.rows), "transform": {"type": "openai"}}],
            tokenizer=arguments.tokenizer,
            too_long="truncate",
        )
        plan = watch.time("plan", plan_build, config)
        plan, _ = watch.time("certify the engine", with_engine, plan, config.engine)
        if arguments.functions:
            profile = cProfile.Profile()
            profile.runcall(run_stages, plan, watch)
            pstats.Stats(profile).sort_stats("cumulative").print_stats(60)
        else:
            run_stages(plan, watch)
    watch.seconds["render and assemble"] -= watch.seconds["encode"]  # which is a part of it
    print(json.dumps({"megabytes": arguments.rows.stat().st_size / 1e6, "seconds": watch.seconds}))


if __name__ == "__main__":
    main()
