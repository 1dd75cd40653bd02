"""Cleaning: what a manifest names, what is young and what a young build has stays; all else below the four folders
goes, and nothing anywhere else."""

import hashlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fabricated import RECIPE, make_info, make_manifest, make_state
from hypothesis import given
from hypothesis import strategies as st

from pipeline.block_info import BlockInfo, StateStore
from pipeline.clean import find_orphans, remove_orphans
from pipeline.cli import main
from pipeline.in_use import mark_started
from schemas.errors import DatasetError
from schemas.manifest import MANIFEST, Manifest, Parent, manifest_name
from schemas.store import Folder

AGE = timedelta(hours=24)
NOW = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)
OTHER = "e" * 64
OLD, YOUNG = NOW - AGE * 2, NOW - AGE / 2


def put(folder: Path, name: str, modified: datetime, data: bytes = b"data") -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (modified.timestamp(), modified.timestamp()))
    return name


def put_files(folder: Path, info: BlockInfo, modified: datetime = OLD) -> set[str]:
    return {put(folder, file.name, modified) for file in info.files}


def put_state(folder: Path, info: BlockInfo, recipe: str, modified: datetime, tag: str = "") -> set[str]:
    store = StateStore(Folder(str(folder)), recipe, f"tiktoken{tag}")
    store.begin(info.key, modified)
    store.finish(make_state(info))
    names = {f"{store.folder}/{info.key.name}.{suffix}" for suffix in ("begun", "json")}
    return {put(folder, name, modified, (folder / name).read_bytes()) for name in names}


def put_manifest(folder: Path, manifest: Manifest) -> str:
    return put(folder, manifest_name(manifest.generation), OLD, manifest.encode())


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def clean(folder: Path) -> None:
    output = Folder(str(folder))
    remove_orphans(output, find_orphans(output, AGE, NOW))


def put_everything(folder: Path) -> tuple[set[str], set[str]]:
    """A published data set of two generations, the rest of a refused build, and one under way; what must stay, and what
    must go."""
    published, refused, running = make_info(0), make_info(0, recipe=OTHER), make_info(1, recipe=OTHER)
    grown = make_info(0, tag="g0001")
    first = make_manifest([published])
    put_manifest(folder, first)
    parent = Parent(name=MANIFEST, sha256=hashlib.sha256(first.encode()).hexdigest())
    put_manifest(folder, make_manifest([grown], generation=1, parent=parent))
    stay = put_files(folder, published) | put_files(folder, grown) | {MANIFEST, "manifest-0001.json"}
    stay |= put_files(folder, running) | put_state(folder, running, OTHER, YOUNG)
    stay |= {put(folder, name, OLD) for name in ("runs/1.json", "tokenizer/a.json", "README.md", "state/started")}
    stay |= put_files(folder, make_info(7, recipe="new"), YOUNG)
    go = (
        put_files(folder, refused)
        | put_state(folder, published, RECIPE, OLD)
        | put_state(folder, grown, RECIPE, OLD, "-g0001")
    )
    go |= {put(folder, name, OLD) for name in ("shards/.a.arrow.0123456789ab.tmp", "state/probe-12", "shards/stray")}
    return stay, go


def test_exactly_the_orphans_go(tmp_path: Path) -> None:
    stay, go = put_everything(tmp_path)
    assert not stay & go
    assert find_orphans(Folder(str(tmp_path)), AGE, NOW).kept.keys()
    assert files_in(tmp_path) == stay | go  # looking removes nothing
    clean(tmp_path)
    assert files_in(tmp_path) == stay
    clean(tmp_path)
    assert files_in(tmp_path) == stay


@given(st.data())
def test_nothing_that_is_used_goes(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Any mixture of blocks of two recipes, published or not, with states young, old, damaged or absent."""
    folder = tmp_path_factory.mktemp("clean")
    used: set[str] = set()
    named: list[BlockInfo] = []
    expected_to_go: set[str] = set()
    is_young = {recipe: data.draw(st.booleans()) for recipe in (RECIPE, OTHER)}
    for recipe, young in is_young.items():
        put(folder, f"state/{recipe}-tiktoken/mark", YOUNG if young else OLD)
        for unit in range(data.draw(st.integers(0, 3))):
            info = make_info(unit, recipe=recipe, files=data.draw(st.booleans()))
            files = put_files(folder, info)
            has_state, is_named = data.draw(st.booleans()), recipe == RECIPE and data.draw(st.booleans())
            if has_state:
                put_state(folder, info, recipe, OLD)
            named += [info] if is_named else []
            if is_named or (has_state and young):
                used |= files
            else:
                expected_to_go |= files
    put_manifest(folder, make_manifest(named))
    clean(folder)
    left = files_in(folder)
    assert used <= left
    assert not expected_to_go & left
    for recipe, young in is_young.items():
        assert any(recipe in name for name in left) == young


def test_a_block_that_is_under_way_keeps_its_old_file(tmp_path: Path) -> None:
    """A retry finds the file of an earlier attempt and leaves it as it is; its state comes after."""
    info = make_info(3)
    files = put_files(tmp_path, info)
    put(tmp_path, f"state/{RECIPE}-tiktoken/{info.key.name}.begun", YOUNG)
    clean(tmp_path)
    assert files <= files_in(tmp_path)


@pytest.mark.parametrize("event", ["a run begins", "another run begins", "a generation is published"])
def test_what_happens_while_files_are_removed_stops_it(
    tmp_path: Path, event: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.clean.BATCH", 2)
    put_everything(tmp_path)
    output = Folder(str(tmp_path))
    if event == "a run begins":
        (tmp_path / "state" / "started").unlink()
    cleaning = find_orphans(output, AGE, NOW)
    if event == "a generation is published":
        put(tmp_path, "manifest-0002.json", NOW)
    else:
        mark_started(output, "state/another")
    before = files_in(tmp_path)
    with pytest.raises(DatasetError, match="meanwhile"):
        remove_orphans(output, cleaning)
    assert files_in(tmp_path) == before


def test_files_that_come_and_go_meanwhile_are_no_error(tmp_path: Path) -> None:
    stay, go = put_everything(tmp_path)
    output = Folder(str(tmp_path))
    cleaning = find_orphans(output, AGE, NOW)
    (tmp_path / min(go)).unlink()
    put(tmp_path, "shards/later", OLD)
    remove_orphans(output, cleaning)
    assert files_in(tmp_path) == stay | {"shards/later"}


def test_what_is_no_output_or_cannot_be_read_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "shards/00000-000-aaaaaaaa.arrow", OLD)
    with pytest.raises(DatasetError, match="neither"):
        clean(tmp_path)
    put_manifest(tmp_path, make_manifest([]))
    put(tmp_path, "manifest-0002.json", OLD)
    with pytest.raises(DatasetError, match=r"manifest-0002.json is there, but not all"):
        clean(tmp_path)
    (tmp_path / "manifest-0002.json").unlink()
    put(tmp_path, MANIFEST, OLD, b"{")
    with pytest.raises(DatasetError, match="not a manifest"):
        clean(tmp_path)
    (tmp_path / MANIFEST).unlink()
    put(tmp_path, "state/started", OLD)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "holdout").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match="holdout is a link"):
        clean(tmp_path)
    assert (tmp_path / "shards" / "00000-000-aaaaaaaa.arrow").exists()


def test_links_are_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "output"
    elsewhere = put(tmp_path, "elsewhere/file", OLD)
    put_manifest(folder, make_manifest([]))
    (folder / "shards").mkdir()
    (folder / "shards" / "linked").symlink_to(tmp_path / "elsewhere")
    clean(folder)
    assert (tmp_path / elsewhere).exists()


def test_the_command_lists_and_removes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_manifest(tmp_path, make_manifest([]))
    orphan = put(tmp_path, "shards/00000-000-aaaaaaaa.arrow", datetime.now(UTC) - timedelta(hours=30))
    assert main(["clean", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "no manifest names them" in told
    assert "nothing is removed without --delete" in told
    assert main(["clean", str(tmp_path), "--delete", "--older-than", "2d"]) == 0
    assert (tmp_path / orphan).exists()
    assert main(["clean", str(tmp_path), "--delete"]) == 0
    assert "removed: 1" in capsys.readouterr().out.splitlines()[-1]
    assert not (tmp_path / orphan).exists()
    for age in ("0", "0h", "59m", "h", "-1d", "1w"):
        with pytest.raises(SystemExit):
            main(["clean", str(tmp_path), "--older-than", age])


def test_what_a_build_under_way_has_written_again_stays(tmp_path: Path) -> None:
    """An old file may be the very one that a build makes next."""
    put_everything(tmp_path)
    output = Folder(str(tmp_path))
    cleaning = find_orphans(output, AGE, NOW)
    shards = [file.name for group in cleaning.orphans for file in group.files if file.name.startswith("shards/")]
    assert len(shards) > 1
    output.write(shards[0], b"the same bytes")
    remove_orphans(output, cleaning)
    assert [name for name in shards if output.size(name) is not None] == shards[:1]
