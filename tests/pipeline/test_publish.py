"""Publishing when others do the same: what is published is whole, and is the first's."""

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from building import QWEN, data_files, small_rows, write_jsonl
from careless import Careless

from pipeline import publish as publishing
from pipeline.block_info import BlockInfo
from pipeline.build_plan import BuildPlan
from pipeline.config import BuildConfig
from pipeline.existing import other_builds
from pipeline.launch import build
from pipeline.publish import publish
from pipeline.recipe import keep_tools, load_tools
from schemas.errors import ConfigError, DatasetError
from schemas.manifest import MANIFEST, Manifest, decode_manifest

SETTLE = 0.3


@dataclass(frozen=True)
class Built:
    """A build that was published elsewhere: its plan and what its blocks gave."""

    plan: BuildPlan
    infos: list[BlockInfo]
    folder: Path

    def ready_in(self, output: Path) -> "Built":
        """The same build with all of its files in another folder, but not published there."""
        for name in ("shards", "holdout", "rejects", "state"):
            if (self.folder / name).exists():
                shutil.copytree(self.folder / name, output / name, dirs_exist_ok=True)
        config = self.plan.recipe.config.model_copy(update={"output": str(output)})
        recipe = replace(self.plan.recipe, config=config)
        keep_tools(recipe, load_tools(self.plan.recipe))
        return replace(self, plan=replace(self.plan, recipe=recipe), folder=output)

    def publish(self) -> Manifest:
        return publish(self.infos, len(self.plan.units), self.plan.files, self.plan.recipe, settle_seconds=SETTLE)


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
    return Built(result.plan, [state.info for state in states if state], folder / name)


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Built, Built]:
    """Of two recipes over the same rows; the second has another template too."""
    folder = tmp_path_factory.mktemp("builds")
    write_jsonl(folder / "rows.jsonl", [*small_rows(150), {"messages": "none"}])
    other = {"user": ["<|im_start|>user\n", "<|im_end|>\n"], "assistant": ["<|im_start|>assistant\n", "<|im_end|>\n"]}
    other["system"] = ["<|im_start|>system\n", "<|im_end|>\n"]
    return make_build(folder, "one"), make_build(folder, "two", chat_template=other, holdout=0.2)


@pytest.fixture(params=["refusing", "careless"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "careless":
        monkeypatch.setattr(publishing, "Folder", Careless)
    return str(request.param)


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


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[list[str]]:
    """A reader that looks at the folder all the time; what it found to be wrong."""
    problems: list[str] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.002):
            if (tmp_path / MANIFEST).exists():
                manifest = decode_manifest((tmp_path / MANIFEST).read_bytes(), "manifest")
                files = [*manifest.shards, *(manifest.holdout.shards if manifest.holdout else [])]
                sizes = [(tmp_path / file.name).stat().st_size == file.bytes for file in files]
                problems.extend([] if sizes and all(sizes) else [manifest.id])

    thread = threading.Thread(target=watch)
    thread.start()
    yield problems
    stop.set()
    thread.join()


def test_two_builds_of_one_config_both_succeed(
    builds: tuple[Built, Built], store: str, tmp_path: Path, watched: list[str]
) -> None:
    ready = builds[0].ready_in(tmp_path)
    first, second = publish_together(ready, ready)
    assert isinstance(first, Manifest)
    assert first == second
    assert data_files(tmp_path) | {MANIFEST: b""} == data_files(builds[0].folder) | {MANIFEST: b""}
    assert not watched


@pytest.mark.parametrize("attempt", range(2))
def test_of_two_recipes_one_is_published_and_one_refused(
    builds: tuple[Built, Built], store: str, tmp_path: Path, watched: list[str], attempt: int
) -> None:
    together = [built.ready_in(tmp_path) for built in builds]
    outcomes = publish_together(*together)
    (winner,) = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, Manifest)]
    assert "another data set" in str(outcomes[1 - winner])
    published = decode_manifest((tmp_path / MANIFEST).read_bytes(), "manifest")
    assert published == outcomes[winner]
    served, expected = (folder / "tokenizer" / "chat_template.jinja" for folder in (tmp_path, builds[winner].folder))
    assert served.read_bytes() == expected.read_bytes()
    assert not watched


def test_one_who_comes_late_touches_nothing(builds: tuple[Built, Built], store: str, tmp_path: Path) -> None:
    first, second = (built.ready_in(tmp_path) for built in builds)
    first.publish()
    before = data_files(tmp_path)
    with pytest.raises(DatasetError, match="another data set"):
        second.publish()
    assert data_files(tmp_path) == before
    first.publish()
    assert data_files(tmp_path) == before


def test_other_shards_of_the_same_recipe_are_refused(builds: tuple[Built, Built], tmp_path: Path) -> None:
    ready = builds[0].ready_in(tmp_path)
    ready.publish()
    shard = ready.infos[0].shard
    assert shard
    (tmp_path / "shards" / "other.arrow").write_bytes(bytes(shard.bytes))
    other = ready.infos[0].model_copy(update={"shard": shard.model_copy(update={"name": "shards/other.arrow"})})
    with pytest.raises(DatasetError, match="not deterministic"):
        replace(ready, infos=[other, *ready.infos[1:]]).publish()


@pytest.mark.parametrize("few", [0, 100])
def test_nothing_is_published_without_one_of_its_files(
    builds: tuple[Built, Built], tmp_path: Path, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Be they listed or asked for one by one."""
    monkeypatch.setattr("pipeline.file_sizes.FEW", few)
    ready = builds[1].ready_in(tmp_path)
    files = [file for info in ready.infos for file in info.files]
    assert {file.name.partition("/")[0] for file in files} == {"shards", "holdout", "rejects"}
    for folder in ("shards", "holdout", "rejects"):
        path = tmp_path / next(file.name for file in files if file.name.startswith(folder))
        data = path.read_bytes()
        path.write_bytes(data[:-1])
        with pytest.raises(DatasetError, match=f"{path.name} has {len(data) - 1} bytes, {len(data)} bytes were"):
            ready.publish()
        path.unlink()
        with pytest.raises(DatasetError, match=f"{path.name} is missing"):
            ready.publish()
        path.write_bytes(data)
    assert not (tmp_path / MANIFEST).exists()
    ready.publish()


def test_a_young_build_of_another_recipe_is_told_of(builds: tuple[Built, Built], tmp_path: Path) -> None:
    first, second = (built.ready_in(tmp_path) for built in builds)
    (warning,) = other_builds(first.plan)
    assert second.plan.recipe.id[:12] in warning
    assert not list(other_builds(first.plan, datetime.now(UTC) + timedelta(hours=1)))
    shutil.rmtree(tmp_path / second.plan.state.folder)
    assert not list(other_builds(first.plan))


def test_a_published_folder_refuses_another_recipe_at_the_start(builds: tuple[Built, Built]) -> None:
    config = builds[1].plan.recipe.config.model_copy(update={"output": str(builds[0].folder)})
    with pytest.raises(ConfigError, match="another recipe"):
        build(config, workers=1)


def test_damaged_bytes_are_found_by_their_hash_and_built_again(builds: tuple[Built, Built], tmp_path: Path) -> None:
    """Of a data set that is published, and of one that is not."""
    built = builds[0].ready_in(tmp_path)
    config = built.plan.recipe.config
    built.publish()
    expected = data_files(tmp_path)
    for name in ("shards", "rejects"):
        path = max((tmp_path / name).iterdir())
        data = path.read_bytes()
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
        if name == "shards":
            assert not build(config, workers=1).built  # by its size it is whole
        else:
            (tmp_path / MANIFEST).unlink()
        checked = build(config, workers=1, check=True)
        assert (checked.built, checked.facts.blocks, checked.facts.blocks_before) == (True, 1, len(built.infos) - 1)
        assert data_files(tmp_path) == expected
    assert not build(config, workers=1, check=True).built
