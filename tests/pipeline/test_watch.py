"""A data set that grows: the same documents as a build over all files, each file once, no packed row touched again."""

import gzip
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from building import data_files, small_rows, write_jsonl
from rich.console import Console
from without_beam import publish_infos, run_unit, run_without_beam

from pipeline import launch
from pipeline.build_plan import BuildPlan, plan_build, plan_recipe
from pipeline.config import BuildConfig
from pipeline.failures import BlockFailure, BudgetExceeded
from pipeline.launch import build
from pipeline.plan_again import plan_again, with_first_sources
from pipeline.verify import verify
from pipeline.watch import look
from pipeline.watch.look import look_at_sources
from pipeline.watch.loop import Watcher, watch
from pipeline.watch.stop import StopRequest
from schemas.errors import ConfigError, DatasetError
from schemas.generations import load_chain, load_dataset
from schemas.manifest import Manifest
from schemas.shard import map_shard
from schemas.store import Folder

TOKENIZER = {"path": "package://mistral_common/data/tokenizer.model.v1", "bos_token": "<s>", "eos_token": "</s>"}
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "run_beam", run_without_beam)
    return tmp_path


def make_config(output: str = "out", **changes: Any) -> BuildConfig:
    settings = {
        "output": output,
        "seq_len": 128,
        "sources": [
            {"path": "chats/*.*[lz]", "transform": {"type": "openai"}},
            {"path": "texts/*.jsonl", "transform": {"type": "text"}},
        ],
        "tokenizer": TOKENIZER,
        "chat_template": {"user": ["Q ", "\n"], "assistant": ["A ", ""]},
        "too_long": "truncate",
        "block_bytes": 4000,
        "holdout": 0.1,
        "max_reject_fraction": 0.5,
        "certify": "none",
        "engine": "reference",
        "watch": {"interval": 1},
    }
    return BuildConfig.model_validate({**settings, **changes})


def add_chats(name: str, seed: int, count: int = 12) -> Path:
    """With one row that is rejected."""
    return write_jsonl(Path("chats", f"{name}.jsonl"), [*small_rows(count, seed), {"messages": []}])


def add_texts(name: str, seed: int, count: int = 40) -> Path:
    return write_jsonl(Path("texts", f"{name}.jsonl"), [{"text": f"{seed} and {number}"} for number in range(count)])


class Timeless(StopRequest):
    def wait(self, _seconds: float) -> None:
        """No time has to pass: files settle by being the same in two looks."""


def watch_once(config: BuildConfig, said: Console | None = None) -> list[Manifest]:
    """A start of `packline watch --once`; the generations afterwards."""
    watch(config, once=True, workers=1, console=said, stop=Timeless())
    return load_chain(Folder(config.output))


def recorded() -> Console:
    return Console(file=open(os.devnull, "w"), record=True, width=10_000)


def documents(dataset: str) -> Counter[tuple[Any, ...]]:
    """Of each document the path of its source, position, piece, ids, channels, and whether it is held out."""
    manifest = load_dataset(Folder(dataset))
    assert manifest.holdout
    found: Counter[tuple[Any, ...]] = Counter()
    for held_out, files in ((False, manifest.shards), (True, manifest.holdout.shards)):
        for packs in itertools.chain.from_iterable(map_shard(Path(dataset, file.name)).batches for file in files):
            for pack in range(len(packs)):
                at, span = 0, packs.documents(pack)
                for index in range(span.start, span.stop):
                    end = at + int(packs.doc_lengths[index])
                    place = (int(packs.doc_position[index]), int(packs.doc_piece[index]))
                    tokens = packs.input_ids[pack, at:end].tobytes(), packs.channel[pack, at:end].tobytes()
                    found[manifest.sources[int(packs.doc_source[index])].path, *place, *tokens, held_out] += 1
                    at = end
    return found


def by_path(manifest: Manifest) -> dict[str, Any]:
    """What a manifest says of each source, whatever its index."""
    return {
        source.path: (
            source.setting,
            source.rows,
            manifest.channels.sources.get(str(index)),
            manifest.turns.sources.get(str(index)),
        )
        for index, source in enumerate(manifest.sources)
    }


def grow(config: BuildConfig) -> Iterator[list[Manifest]]:
    """Three generations, and what is there after each."""
    add_chats("b", 1)
    yield watch_once(config)
    add_chats("a", 2)
    add_texts("a", 3)
    yield watch_once(config)
    add_texts("b", 4)
    add_chats("c", 5, count=40)
    yield watch_once(config)


def test_a_build_over_the_union_has_the_same_documents() -> None:
    packed: dict[str, bytes] = {}
    for number, chain in enumerate(grow(make_config())):
        assert len(chain) == number + 1
        now = {name: data for name, data in data_files(Path("out")).items() if not name.startswith("tokenizer")}
        assert packed.items() <= now.items()  # no file of an earlier generation is touched
        packed = now | {"manifest.json": Path("out/manifest.json").read_bytes()}
        assert list(verify("out", deep=True)) == []
    whole = load_dataset(Folder("out"))
    union = build(make_config("union"), workers=1).manifest

    assert documents("out") == documents("union")
    assert len(documents("out")) > 100
    assert by_path(whole) == by_path(union)
    assert whole.rejects.counts == union.rejects.counts == {"empty": 3}
    different = {"packs"}  # documents of two generations share none
    assert whole.totals.model_dump(exclude=different) == union.totals.model_dump(exclude=different)
    assert whole.totals.truncated > 0
    assert whole.channels.total == union.channels.total
    assert whole.turns.total == union.turns.total
    assert whole.recipe_id == union.recipe_id
    assert [source.path for source in whole.sources] == [
        *("chats/b.jsonl", "chats/a.jsonl", "texts/a.jsonl", "chats/c.jsonl", "texts/b.jsonl")
    ]
    names = [file.name for file in whole.shards]
    assert {name.partition("-")[0] for name in names} >= {"shards/00000", "shards/g0001", "shards/g0002"}
    assert len(set(names)) == len(names)
    for generation in (0, 1):
        assert list(verify("out", deep=True, generation=generation)) == []


def test_the_same_files_in_the_same_generations_give_the_same_bytes() -> None:
    chains = list(grow(make_config()))
    expected = data_files(Path("out")) | {f"{number}": chain[-1].encode() for number, chain in enumerate(chains)}
    for path in Path().glob("*/*.jsonl"):
        path.rename(path.with_suffix(".later"))
    for number, chain in enumerate(chains):
        for source in chain[-1].sources:
            Path(source.path).with_suffix(".later").rename(source.path)
        again = watch_once(make_config("again"))
        assert again[-1].encode() == expected[f"{number}"]
    assert data_files(Path("again")).items() <= expected.items()


def test_the_first_round_is_an_ordinary_build_and_goes_on_from_one() -> None:
    add_chats("a", 1)
    add_texts("a", 2)
    built = build(make_config("built"), workers=1).manifest
    (first,) = watch_once(make_config())
    assert data_files(Path("out")) == data_files(Path("built"))
    assert build(make_config(watch={"marker": ".done"}), workers=1).built is False
    add_texts("b", 3)
    chain = watch_once(make_config("built"))
    assert chain[0] == first == built
    assert [source.path for source in chain[1].sources] == ["texts/b.jsonl"]
    assert len(watch_once(make_config("built"))) == 2
    with pytest.raises(ConfigError, match=r"other sources \(added: texts/b.jsonl\).*watch --once.*--set output"):
        build(make_config(), workers=1)
    with pytest.raises(ConfigError, match="in several generations"):
        build(make_config("built"), workers=1)


def test_each_generation_can_be_planned_again() -> None:
    *_, chain = grow(make_config())
    plan = plan_recipe(make_config())
    plans = [plan_again(plan, manifest, first_source) for manifest, first_source in with_first_sources(chain)]
    assert [plan.dataset_id for plan in plans] == [manifest.id for manifest in chain]
    assert len({plan.dataset_id for plan in plans}) == 3
    assert plans[2].generation.first_source == 3
    Path("texts/a.jsonl").write_text("")
    with pytest.raises(DatasetError, match=r"texts/a\.jsonl changed"):
        plan_again(plan, chain[1], 1)


def test_what_is_missing_of_a_generation_is_made_again() -> None:
    *_, chain = grow(make_config())
    files = data_files(Path("out"))
    for manifest in chain[:2]:
        Path("out", manifest.shards[0].name).unlink()
        Path("out", manifest.shards[1].name).write_bytes(b"cut")
    assert len(list(verify("out", deep=False))) == 4
    said = recorded()
    assert watch_once(make_config(), said) == chain
    assert data_files(Path("out")) == files
    assert said.export_text().count("are missing or cut short") == 2
    Path("out", chain[1].shards[0].name).unlink()
    Path(chain[1].sources[0].path).unlink()
    with pytest.raises(DatasetError, match=r"chats/a\.jsonl is gone"):
        watch_once(make_config())


@pytest.mark.parametrize("late", ["z", "0"])  # behind the others, and before them
def test_a_round_that_was_killed_is_planned_again_and_keeps_its_blocks(
    late: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_texts("a", 1)
    watch_once(make_config())
    add_chats("b", 2, count=60)

    def die(plan: BuildPlan, *_arguments: Any, **_options: Any) -> None:
        for unit in plan.units[:3]:
            list(run_unit(plan, unit))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(launch, "run_beam", die)
        with pytest.raises(KeyboardInterrupt):
            watch_once(make_config())
    states = {path: path.stat().st_mtime_ns for path in Path("out/state").glob("*-g0001/*.json")}
    assert len(states) == 3
    assert not Path("out/manifest-0001.json").exists()
    add_chats(late, 3)
    chain = watch_once(make_config())
    assert len(chain) == 2
    assert {source.path for source in chain[1].sources} == {"chats/b.jsonl", f"chats/{late}.jsonl"}
    kept = {path for path, mtime in states.items() if path.stat().st_mtime_ns == mtime}
    assert kept == (set(states) if late == "z" else set())
    assert list(verify("out", deep=True)) == []
    build(make_config("union"), workers=1)
    assert documents("out") == documents("union")


def interfere(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Between the work of the next round and its publishing another process acts."""

    def run(plan: BuildPlan, *arguments: Any, **_options: Any) -> None:
        infos = [info for unit in plan.units for info in run_unit(plan, unit)]
        monkeypatch.setattr(launch, "run_beam", run_without_beam)
        act()
        publish_infos(plan, infos)

    monkeypatch.setattr(launch, "run_beam", run)


def test_of_two_watchers_one_publishes_and_the_other_plans_again(monkeypatch: pytest.MonkeyPatch) -> None:
    add_chats("a", 1)
    watch_once(make_config())
    add_chats("b", 2)

    def other() -> None:
        add_chats("c", 3)
        assert len(watch_once(make_config())) == 2

    interfere(monkeypatch, other)
    said = recorded()
    chain = watch_once(make_config(), said)
    assert [len(manifest.sources) for manifest in chain] == [1, 2]
    assert "manifest-0001.json was published meanwhile by another process" in said.export_text()
    add_texts("d", 4)
    watch_once(make_config())
    assert list(verify("out", deep=True)) == []
    build(make_config("union"), workers=1)
    assert documents("out") == documents("union")


def test_two_watchers_that_see_the_same_publish_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    add_chats("a", 1)
    interfere(monkeypatch, lambda: list.clear(watch_once(make_config())))
    said = recorded()
    assert len(watch_once(make_config(), said)) == 1
    assert "warning" not in said.export_text()


def test_a_taken_file_that_changes_is_told_once_and_stays_as_it_was() -> None:
    path = add_chats("a", 1)
    add_chats("b", 2)
    watch_once(make_config())
    before = data_files(Path("out"))
    path.write_bytes(path.read_bytes() * 2)
    Path("chats/b.jsonl").unlink()  # of a file that is gone nothing is said
    said = recorded()
    watcher = Watcher(make_config(), "FnApiRunner", 1, (), said, debug=False)
    assert [watcher.look().files for _ in range(3)] == [{}, {}, {}]
    text = said.export_text()
    assert text.count("warning") == text.count("chats/a.jsonl is in the data set as it was before it changed") == 1
    assert data_files(Path("out")) == before


def test_a_damaged_file_is_named_and_nothing_is_lost() -> None:
    add_chats("a", 1)
    watch_once(make_config())
    add_chats("b", 2)
    damaged = Path("chats/c.jsonl.gz")
    damaged.write_bytes(gzip.compress(json.dumps(small_rows(1)[0]).encode() * 50)[:-20])
    with pytest.raises(DatasetError, match=r"chats/c\.jsonl\.gz: damaged or cut short"):
        watch_once(make_config())
    assert len(load_chain(Folder("out"))) == 1
    damaged.unlink()
    assert [source.path for source in watch_once(make_config())[1].sources] == ["chats/b.jsonl"]


def test_a_budget_is_that_of_a_generation() -> None:
    add_chats("a", 1, count=60)
    watch_once(make_config())
    write_jsonl(Path("chats/b.jsonl"), [*small_rows(10), *[{"messages": []}] * 8])
    with pytest.raises(BudgetExceeded, match="8 of 18 rows were rejected"):
        watch_once(make_config(max_reject_fraction=0.4))
    assert len(load_chain(Folder("out"))) == 1


def test_another_recipe_and_a_limit_are_refused() -> None:
    add_chats("a", 1)
    watch_once(make_config())
    with pytest.raises(ConfigError, match=r"another recipe \(seq_len was 128, is 64\).*--set output"):
        watch_once(make_config(seq_len=64))
    source = {"path": "chats/*.jsonl", "transform": {"type": "openai"}, "limit": 5}
    with pytest.raises(ConfigError, match=r"sources\.0\.limit"):
        watch_once(make_config("other", sources=[source]))


def test_a_marked_file_is_taken_as_it_is_then_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(watch={"marker": ".done", "interval": 1})
    with pytest.raises(DatasetError, match="does not exist"):
        watch_once(config)
    add_chats("a", 1)
    add_chats("b", 2)
    Path("chats/b.jsonl.done").write_bytes(b"")
    seen = look_at_sources(config, taken={(0, "chats/a.jsonl")})
    assert seen.marked == {(0, "chats/b.jsonl")}
    assert set(seen.files) == {(0, "chats/a.jsonl"), (0, "chats/b.jsonl")}

    def write_and_mark(url: str, profile: str | None) -> bool:  # after the listing
        Path("chats/b.jsonl").write_bytes(b"whole")
        return exists(url, profile)

    exists = look._exists
    with monkeypatch.context() as patch:
        patch.setattr(look, "_exists", write_and_mark)
        assert look_at_sources(config, taken={}).files[0, "chats/b.jsonl"].stamp.size == 5
    add_chats("b", 2)
    assert [source.path for source in watch_once(config)[0].sources] == ["chats/b.jsonl"]


def test_a_failure_that_is_not_of_the_input_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    add_chats("a", 1)

    def fail(*_arguments: Any, **_options: Any) -> None:
        raise BlockFailure("bug", "of ours")

    monkeypatch.setattr(launch, "run_beam", fail)
    with pytest.raises(BlockFailure, match="of ours"):
        watch_once(make_config())


def test_the_watch_section_is_no_part_of_the_recipe() -> None:
    add_chats("a", 1)
    add_texts("a", 2)
    one, other = (plan_build(make_config(watch=watch)) for watch in ({}, {"marker": ".ok", "max_wait": "2h"}))
    assert one.dataset_id == other.dataset_id
