"""A chain of manifests is read as one data set, and a broken chain is refused with what to do."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import DatasetError
from schemas.generations import NewGeneration, load_chain, load_dataset, read_links
from schemas.manifest import Manifest, decode_manifest, manifest_name
from schemas.recipe import dataset_id
from schemas.store import Folder

MakeValues = Callable[[], dict[str, Any]]


def moved(values: dict[str, Any], generation: int) -> dict[str, Any]:
    """The example, with its source's index and its files' names those of a generation that has one source."""
    values |= {"generation": generation, "id": f"{generation:064x}"}
    values["sources"][0]["path"] = f"rows-{generation}.jsonl"
    for part in ("channels", "turns"):
        values[part]["sources"] = {str(generation): values[part]["sources"]["0"]}
    for file in (*values["shards"], *values["holdout"]["shards"], *values["rejects"]["files"]):
        file["name"] = file["name"].replace("/", f"/g{generation:04}-")
    return values


@pytest.fixture
def folder(tmp_path: Path, manifest_values: MakeValues) -> Folder:
    """Three generations."""
    parent = None
    for generation in range(3):
        name = manifest_name(generation)
        data = json.dumps({**moved(manifest_values(), generation), "parent": parent}).encode()
        (tmp_path / name).write_bytes(data)
        parent = {"name": name, "sha256": hashlib.sha256(data).hexdigest()}
    return Folder(str(tmp_path))


def change(folder: Folder, name: str, changes: dict[str, Any]) -> None:
    folder.write(name, json.dumps(json.loads(folder.read(name)) | changes).encode())


def test_a_chain_is_the_sum_of_its_generations(folder: Folder) -> None:
    chain = load_chain(folder)
    assert [manifest.generation for manifest in chain] == [0, 1, 2]
    for count in (1, 2, 3):
        whole = load_dataset(folder, count - 1)
        assert (whole.generation, whole.id, whole.recipe_id) == (count - 1, chain[count - 1].id, "b" * 64)
        assert [source.path for source in whole.sources] == [f"rows-{number}.jsonl" for number in range(count)]
        assert [file.name[:13] for file in whole.shards] == [f"shards/g{number:04}-" for number in range(count)]
        assert whole.holdout
        assert len(whole.holdout.shards) == len(whole.rejects.files) == count
        assert (whole.totals.rows, whole.totals.packs, whole.rejects.counts) == (7 * count, 2 * count, {"empty": count})
        assert whole.channels.total == {"13": 18 * count, "141": 2 * count}
        assert whole.channels.sources == {str(number): {"13": 18, "141": 2} for number in range(count)}
        assert whole.turns.total.trained == 5 * count
        assert whole.fill == 0.625
    assert load_dataset(folder) == whole


def test_links_go_on_from_one(folder: Folder) -> None:
    first, second, third = read_links(folder)
    assert list(read_links(folder, first)) == [second, third]
    assert list(read_links(folder, third)) == []
    assert third.manifest.parent == second.as_parent
    assert second.as_parent.name == "manifest-0001.json"


@pytest.mark.parametrize(
    ("generation", "changes", "said"),
    [
        (0, {"clock": "2024-07-27"}, r"manifest-0001\.json: its parent is not the manifest\.json that is there"),
        (1, {"parent": None}, r"manifest-0001\.json: its parent is not"),
        (2, {"generation": 1}, r"manifest-0002\.json: its generation is 1, its name says 2"),
        (2, {"recipe_id": "9" * 64}, r"manifest-0002\.json: its recipe is 999999999999, that of its parent is bbb"),
    ],
)
def test_a_broken_chain_is_refused(folder: Folder, generation: int, changes: dict[str, Any], said: str) -> None:
    change(folder, manifest_name(generation), changes)
    with pytest.raises(DatasetError, match=said):
        load_chain(folder)
    if generation:
        assert len(load_chain(folder, generation - 1)) == generation


def test_a_generation_that_is_not_there_is_named(folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"manifest-0003\.json does not exist: .* latest generation is 2"):
        load_dataset(folder, 7)
    for generation in (0, "latest"):
        with pytest.raises(DatasetError, match=r"manifest\.json does not exist: no data set here"):
            load_chain(Folder(str(tmp_path / "nothing")), generation)  # type: ignore[arg-type]


def test_the_identity_of_a_generation_is_that_of_all_before_it_too(manifest_values: MakeValues) -> None:
    sources = decode(manifest_values()).model_dump()["sources"]
    ids = [dataset_id("r", sources, parent) for parent in (None, "a" * 64, "b" * 64)]
    assert len(set(ids)) == 3
    assert ids[0] == dataset_id("r", sources)


def decode(values: dict[str, Any]) -> Manifest:
    return decode_manifest(json.dumps(values).encode(), "here")


def test_the_tag_of_a_generation() -> None:
    assert [NewGeneration(number).tag for number in (0, 1, 12345)] == ["", "g0001", "g12345"]
