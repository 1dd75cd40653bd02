"""The plan as workers get it: whole, from the output folder, and no other than the one that was submitted."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import plan_file, recipe
from pipeline.block_info import unit_sha256
from pipeline.build_plan import BuildPlan, plan_build
from pipeline.config import load_config
from pipeline.plan_file import PlanFile, write_plan
from schemas.errors import DatasetError
from schemas.file_system import absolute_url


@pytest.fixture
def plan(project: Path, monkeypatch: pytest.MonkeyPatch) -> BuildPlan:
    monkeypatch.chdir(project)
    return plan_build(load_config(Path("config.yaml")))


@pytest.fixture
def sent(plan: BuildPlan, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> PlanFile:
    """As it comes to a worker: another process, in another folder."""
    file: PlanFile = pickle.loads(pickle.dumps(write_plan(plan)))
    plan_file._kept.clear()
    recipe._loaded.clear()
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    return file


def test_a_worker_has_all_that_the_plan_says(plan: BuildPlan, sent: PlanFile, project: Path) -> None:
    found = sent.load()
    assert found == plan
    assert sent.load() is found
    assert (found.files[0].url, found.files[0].place) == ("rows.jsonl", str(project / "rows.jsonl"))
    assert found.output.url == str(project / "out")


def test_a_worker_needs_no_file_of_the_tokenizer(
    plan: BuildPlan, sent: PlanFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(_: object) -> None:
        raise AssertionError("a file was looked for")

    monkeypatch.setattr("pipeline.encoders.load.read_tokenizer_files", nothing)
    tokenizer = recipe.load_tools(sent.load().recipe).tokenizer
    assert tokenizer.sha256 == plan.recipe.tokenizer_sha256


def test_what_is_submitted_is_small_whatever_the_plan_holds(sent: PlanFile) -> None:
    assert len(pickle.dumps(sent)) < 500


def test_the_id_of_a_unit_does_not_depend_on_the_folder(plan: BuildPlan, sent: PlanFile) -> None:
    file = plan.files[0]
    moved = replace(file)  # its place is found anew, in this folder
    assert moved.place != file.place
    unit = plan.units[0]
    assert unit_sha256(replace(unit, stretches=(replace(unit.stretches[0], file=moved),))) == unit_sha256(unit)


def test_another_plan_in_its_place_is_refused(sent: PlanFile) -> None:
    sent.output.write(sent.name, b"another")
    with pytest.raises(DatasetError, match="not what this build wrote"):
        sent.load()


def test_a_worker_that_does_not_see_the_output_says_so(sent: PlanFile) -> None:
    sent.output.remove(sent.name)
    with pytest.raises(DatasetError, match="must be a folder that all machines share"):
        sent.load()


def test_a_worker_of_another_version_says_so(sent: PlanFile) -> None:
    with pytest.raises(DatasetError, match=r"a worker has packline .*, and the build was started by 9\.9"):
        replace(sent, packline="9.9").load()


@pytest.mark.parametrize("url", ["s3://bucket/key", "hf://datasets/a/b", "memory://x", "/a/b", "simplecache::s3://b/k"])
def test_what_is_absolute_stays_as_it_is(url: str) -> None:
    assert absolute_url(url) == url


@pytest.mark.parametrize(("url", "name"), [("a/b", "a/b"), ("./a/", "a"), ("file://a/b", "a/b")])
def test_a_local_path_is_made_absolute(url: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_url(url) == str(tmp_path / name)
