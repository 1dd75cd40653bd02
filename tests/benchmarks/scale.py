"""What 10 TB of raw text make of a data set's bookkeeping: 200,000 blocks of 50 MB, a shard and a reject file each. The
files are as long as they would be, and hold nothing.

    python tests/benchmarks/scale.py [--blocks 200000] [--write]

Each step runs in a process of its own, so its memory is its own. The files go into a temporary folder (TMPDIR) on a
disk; 800,000 of them take minutes to make and to remove. With --write the tables in docs/scale.md are made anew, that
of requests too (store_requests.py).
"""

import argparse
import json
import pickle
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from measure import RANKS, measured

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from building import small_rows, write_jsonl
from fabricated import make_info, make_state
from store_requests import request_table
from tables import markdown_table, replace_marked

from pipeline.block_info import BlockInfo, encode_state, unit_sha256
from pipeline.blocks import BlockKey, SourceFile, Stretch, Unit
from pipeline.build_plan import BuildPlan, plan_build
from pipeline.clean import find_orphans, remove_orphans
from pipeline.coders import BlockInfoCoder
from pipeline.config import BuildConfig
from pipeline.progress import StateReader
from pipeline.publish import publish
from pipeline.worker_pool import collect_rarely
from schemas.generations import load_dataset
from schemas.manifest import MANIFEST
from schemas.store import Folder

DOC = Path(__file__).parents[2] / "docs" / "scale.md"
BLOCKS_PER_FILE = 20
BLOCK_BYTES = 50_000_000


def make_plan(folder: Path, blocks: int) -> BuildPlan:
    """One of `blocks` units over files that are not there."""
    rows = write_jsonl(folder / "rows.jsonl", small_rows(10))
    settings = {"output": str(folder / "out"), "seq_len": 8192, "tokenizer": RANKS, "certify": "none"}
    source = {"path": str(rows), "transform": {"type": "openai"}}
    plan = plan_build(BuildConfig.model_validate(settings | {"sources": [source]}))
    files = tuple(make_file(number) for number in range(-(-blocks // BLOCKS_PER_FILE)))
    return replace(
        plan, files=dict(enumerate(files)), units=tuple(make_unit(number, files) for number in range(blocks))
    )


def make_file(number: int) -> SourceFile:
    size, etag = BLOCKS_PER_FILE * BLOCK_BYTES, f"{number * 0x9E3779B97F4A7C15 % 2**128:032x}"
    return SourceFile(f"s3://bucket/raw/part-{number:05}.jsonl", 0, "jsonl", None, size, etag, "2026-01-01T00:00:00Z")


def make_unit(number: int, files: Sequence[SourceFile]) -> Unit:
    source, part = divmod(number, BLOCKS_PER_FILE)
    return Unit(number, (Stretch(source, files[source], part * BLOCK_BYTES, (part + 1) * BLOCK_BYTES),))


def make_infos(plan: BuildPlan) -> Iterator[BlockInfo]:
    for unit in plan.units:
        info = make_info(unit.index, unit.stretches[0].source, recipe=plan.recipe.id)
        changes = {"holdout": None, "holdout_channels": {}, "unit_sha256": unit_sha256(unit)}
        yield info.model_copy(update=changes)


def write_files(plan: BuildPlan) -> None:
    """Shards, reject files and states."""
    root = Path(plan.output.url)
    for folder in ("shards", "rejects", plan.state.folder):
        (root / folder).mkdir(parents=True)
    for info in make_infos(plan):
        for file in info.files:
            with open(root / file.name, "wb") as empty:
                empty.truncate(file.bytes)
        (root / plan.state.folder / f"{info.key.name}.json").write_bytes(encode_state(make_state(info)))
        (root / plan.state.folder / f"{info.key.name}.begun").touch()


class Measured(dict[str, Any]):
    """Seconds of processor time (a disk is hardly waited for), and what else is told."""

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        began = time.process_time()
        yield
        self[name] = time.process_time() - began


def measure_plan(plan: BuildPlan, told: Measured) -> None:
    with told.time("pickled"):
        told["bytes"] = len(pickle.dumps(plan))


def measure_publish(plan: BuildPlan, told: Measured) -> None:
    coder = BlockInfoCoder()
    encoded = [coder.encode(info) for info in make_infos(plan)]
    told["shuffled"] = sum(map(len, encoded))
    with told.time("published"):
        publish(map(coder.decode, encoded), len(plan.units), plan.files, plan.recipe, plan.generation)
    told["bytes"] = plan.output.size(MANIFEST)


def measure_load(plan: BuildPlan, told: Measured) -> None:
    with told.time("loaded"):
        load_dataset(Folder(plan.output.url))


def measure_trainer(plan: BuildPlan, told: Measured) -> None:
    from train.packs import ShardedPacks

    with told.time("opened"):
        told["packs"] = len(ShardedPacks(plan.output.url))


def measure_progress(plan: BuildPlan, told: Measured) -> None:
    with told.time("hashed"):
        reader = StateReader(plan)
    with told.time("read"):
        assert reader.look().blocks == len(plan.units)
    with told.time("listed"):
        reader.look()


def measure_restart(plan: BuildPlan, told: Measured) -> None:
    with told.time("found"):
        assert all(plan.state.load_whole(BlockKey(unit.index, 0, True), unit) for unit in plan.units)


def measure_clean(plan: BuildPlan, told: Measured) -> None:
    """As if all but the published files were old: the states go."""
    now = datetime.now(UTC) + timedelta(days=2)
    with told.time("found"):
        cleaning = find_orphans(plan.output, timedelta(days=1), now)
    told["orphans"] = sum(len(orphans.files) for orphans in cleaning.orphans)
    with told.time("removed"):
        remove_orphans(plan.output, cleaning)


STEPS: dict[str, Callable[[BuildPlan, Measured], None]] = {
    "plan": measure_plan,
    "publish": measure_publish,
    "load": measure_load,
    "trainer": measure_trainer,
    "progress": measure_progress,
    "restart": measure_restart,
    "clean": measure_clean,
}


def peak_memory() -> int:
    """Bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run_step(name: str, folder: Path, blocks: int) -> None:
    collect_rarely()  # as the command and its workers do
    told = Measured()
    STEPS[name](make_plan(folder, blocks), told)
    print(json.dumps(told | {"memory": peak_memory()}))


def step_table(found: Mapping[str, Mapping[str, float]]) -> str:
    def row(step: str, what: str, figure: str) -> list[str]:
        return [what, figure, f"{found[step]['memory'] / 2**20:,.0f} MiB"]

    def seconds(step: str, name: str) -> str:
        return f"{found[step][name]:.1f} s"

    def mebibytes(step: str) -> str:
        return f"{found[step]['bytes'] / 2**20:.1f} MiB"

    shuffled = f"{found['publish']['shuffled'] / 2**20:.0f} MiB"
    orphans = f"{found['clean']['orphans']:,}"
    return markdown_table(
        ["what", "figure", "memory of the process"],
        [
            row("plan", "plan, pickled for the workers", f"{mebibytes('plan')}, {seconds('plan', 'pickled')}"),
            row("publish", "what blocks send to the step that publishes", shuffled),
            row("publish", "publishing, with all checks", seconds("publish", "published")),
            row("publish", "manifest.json", mebibytes("publish")),
            row("load", "reading the manifest", seconds("load", "loaded")),
            row("trainer", "opening the data set to train on", seconds("trainer", "opened")),
            row("restart", "finding all blocks finished, one worker", seconds("restart", "found")),
            row("progress", "progress: states of all blocks", seconds("progress", "read")),
            row("progress", "progress: a look that finds nothing new", seconds("progress", "listed")),
            row("clean", f"clean: {orphans} orphans among all files", seconds("clean", "found")),
            row("clean", "clean: removing them", seconds("clean", "removed")),
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--blocks", type=int, default=200_000)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/scale.md")
    parser.add_argument("--step", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        run_step(arguments.step[0], Path(arguments.step[1]), arguments.blocks)
        return
    with tempfile.TemporaryDirectory() as scratch:
        write_files(make_plan(Path(scratch), arguments.blocks))
        found = {name: measured("scale.py", "--blocks", arguments.blocks, "--step", name, scratch) for name in STEPS}
    text = f"{arguments.blocks:,} blocks.\n\n{step_table(found)}\n\n{request_table()}"
    if arguments.write:
        replace_marked(DOC, text)
    else:
        print(text)


if __name__ == "__main__":
    main()
