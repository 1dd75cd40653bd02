"""Publishing when others do the same: what is published is whole, and is the first's."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from building import data_files
from careless import Careless
from publishing import Built, make_two_builds, publish_together, watched

from pipeline.config import BuildConfig
from pipeline.existing import other_builds
from pipeline.launch import build
from schemas.errors import ConfigError, DatasetError
from schemas.manifest import MANIFEST, Manifest, decode_manifest
from schemas.store import Folder, StoredFile


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Built, Built]:
    return make_two_builds(tmp_path_factory.mktemp("builds"))


@pytest.fixture(params=["refusing", "careless"])
def output(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Folder:
    if request.param == "careless":
        monkeypatch.setattr("pipeline.config.Folder", Careless)
    return Folder(str(tmp_path))


def files_of(folder: Folder) -> dict[str, bytes]:
    return data_files(Path(folder.url))


def test_two_builds_of_one_config_both_succeed(builds: tuple[Built, Built], output: Folder) -> None:
    ready = builds[0].ready_in(output)
    with watched(output) as problems:
        first, second = publish_together(ready, ready)
    assert isinstance(first, Manifest)
    assert first == second
    assert files_of(output) | {MANIFEST: b""} == files_of(builds[0].folder) | {MANIFEST: b""}
    assert not problems


@pytest.mark.parametrize("attempt", range(2))
def test_of_two_recipes_one_is_published_and_one_refused(
    builds: tuple[Built, Built], output: Folder, attempt: int
) -> None:
    together = [built.ready_in(output) for built in builds]
    with watched(output) as problems:
        outcomes = publish_together(*together)
    (winner,) = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, Manifest)]
    assert "another data set" in str(outcomes[1 - winner])
    assert decode_manifest(output.read(MANIFEST), MANIFEST) == outcomes[winner]
    served, expected = (folder.read("tokenizer/chat_template.jinja") for folder in (output, builds[winner].folder))
    assert served == expected
    assert not problems


def test_one_who_comes_late_touches_nothing(builds: tuple[Built, Built], output: Folder) -> None:
    first, second = (built.ready_in(output) for built in builds)
    first.publish()
    before = files_of(output)
    with pytest.raises(DatasetError, match="another data set"):
        second.publish()
    first.publish()
    assert files_of(output) == before


def test_an_engine_and_a_certificate_make_no_other_data_set(builds: tuple[Built, Built], tmp_path: Path) -> None:
    ready = builds[0].ready_in(Folder(str(tmp_path)))
    published = ready.publish()
    recipe = replace(ready.plan.recipe, engine="gigatoken")
    other = replace(ready, plan=replace(ready.plan, recipe=recipe)).publish()
    assert (other.tokenizer.engine, published.tokenizer.engine) == ("gigatoken", "tiktoken")
    assert decode_manifest((tmp_path / MANIFEST).read_bytes(), MANIFEST) == published


def test_other_shards_of_the_same_recipe_are_refused(builds: tuple[Built, Built], tmp_path: Path) -> None:
    ready = builds[0].ready_in(Folder(str(tmp_path)))
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
    ready = builds[1].ready_in(Folder(str(tmp_path)))
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


@dataclass(frozen=True, slots=True)
class LateListing(Folder):
    """A store that lists nothing yet."""

    def files(self, folder: str) -> list[StoredFile]:
        return []


def test_a_file_that_a_listing_does_not_show_yet_is_asked_for(
    builds: tuple[Built, Built], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = builds[0].ready_in(Folder(str(tmp_path)))
    monkeypatch.setattr("pipeline.file_sizes.FEW", 0)
    monkeypatch.setattr("pipeline.config.Folder", LateListing)
    assert ready.publish().shards


def test_a_young_build_of_another_recipe_is_told_of(builds: tuple[Built, Built], tmp_path: Path) -> None:
    first, second = (built.ready_in(Folder(str(tmp_path))) for built in builds)
    (warning,) = other_builds(first.plan)
    assert second.plan.recipe.id[:12] in warning
    assert not list(other_builds(first.plan, datetime.now(UTC) + timedelta(hours=1)))
    first.publish()
    assert not list(other_builds(first.plan))


def test_a_published_folder_refuses_another_recipe_at_the_start(builds: tuple[Built, Built]) -> None:
    config = builds[1].plan.recipe.config.model_copy(update={"output": builds[0].folder.url})
    with pytest.raises(ConfigError, match="another recipe"):
        build(config, workers=1)


def test_damaged_bytes_are_found_by_their_hash_and_built_again(builds: tuple[Built, Built], tmp_path: Path) -> None:
    """Of a data set that is published, and of one that is not."""
    built = builds[0].ready_in(Folder(str(tmp_path)))
    config: BuildConfig = built.plan.recipe.config
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
