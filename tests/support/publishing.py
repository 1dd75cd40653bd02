"""Builds that are ready to be published, on any store, and published at the same time."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from building import QWEN, small_rows, write_jsonl

from pipeline.block_info import BlockInfo
from pipeline.build_plan import BuildPlan
from pipeline.config import BuildConfig
from pipeline.launch import build
from pipeline.publish import publish
from pipeline.recipe import keep_tools, load_tools
from schemas.errors import DatasetError
from schemas.manifest import MANIFEST, Manifest, decode_manifest
from schemas.store import Folder

SETTLE = 0.3


@dataclass(frozen=True)
class Built:
    """A plan, what its blocks gave, and a folder where their files are."""

    plan: BuildPlan
    infos: list[BlockInfo]

    @property
    def folder(self) -> Folder:
        return self.plan.output

    def ready_in(self, output: Folder) -> "Built":
        """The same build with all of its files in another folder, but not published there."""
        for name in ("shards", "holdout", "rejects", "state"):
            for file in self.folder.files(name):
                output.write(file.name, self.folder.read(file.name))
        changes = {"output": output.url, "output_profile": output.profile}
        recipe = replace(self.plan.recipe, config=self.plan.recipe.config.model_copy(update=changes))
        keep_tools(recipe, load_tools(self.plan.recipe))
        return replace(self, plan=replace(self.plan, recipe=recipe))

    def publish(self) -> Manifest:
        plan = self.plan
        return publish(self.infos, len(plan.units), plan.files, plan.recipe, plan.generation, settle_seconds=SETTLE)


def make_build(folder: Path, name: str, **changes: Any) -> Built:
    settings = {
        "output": str(folder / name),
        "seq_len": 512,
        "sources": [{"path": str(folder / "rows.jsonl"), "transform": {"type": "openai"}}],
        "tokenizer": QWEN,
        "block_bytes": "16KiB",
        "max_reject_fraction": 1,
        "engine": "reference",
        "certify": "none",
        **changes,
    }
    result = build(BuildConfig.model_validate(settings), workers=1)
    states = map(result.plan.state.read, result.plan.state.names())
    return Built(result.plan, [state.info for state in states if state])


def make_two_builds(folder: Path) -> tuple[Built, Built]:
    """Of two recipes over the same rows; the second has another template, and a holdout."""
    write_jsonl(folder / "rows.jsonl", [*small_rows(150), {"messages": "none"}])
    roles = ("system", "user", "assistant")
    template = {role: [f"<|im_start|>{role}\n", "<|im_end|>\n"] for role in roles}
    return make_build(folder, "one"), make_build(folder, "two", chat_template=template, holdout=0.2)


def publish_together(*builds: Built) -> list[Manifest | DatasetError]:
    start = threading.Barrier(len(builds))

    def attempt(built: Built) -> Manifest | DatasetError:
        start.wait()
        try:
            return built.publish()
        except DatasetError as error:
            return error

    with ThreadPoolExecutor(len(builds)) as pool:
        return list(pool.map(attempt, builds))


@contextmanager
def watched(folder: Folder) -> Iterator[list[str]]:
    """A reader that looks all the time; the ids of manifests that it found without a file of theirs."""
    problems: list[str] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.005):
            try:
                manifest = decode_manifest(folder.read(MANIFEST), MANIFEST)
            except FileNotFoundError:
                continue
            files = [*manifest.shards, *(manifest.holdout.shards if manifest.holdout else [])]
            is_whole = files and all(folder.size(file.name) == file.bytes for file in files)
            problems.extend([] if is_whole else [manifest.id])

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield problems
    finally:
        stop.set()
        thread.join()
