"""Progress adds up what is finished, each block once, however its states are read."""

import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fabricated import RECIPE, make_info, make_state

from pipeline import progress
from pipeline.block_info import BlockInfo, StateStore, unit_sha256
from pipeline.blocks import Unit
from pipeline.progress import Seen, StateReader
from pipeline.run_facts import RunFacts
from schemas.store import Folder

BLOCKS = 7


@dataclass(frozen=True, slots=True)
class Far(Folder):
    """Like a store: no disk of this machine."""

    @property
    def is_local(self) -> bool:
        return False


def make_plan(output: Folder) -> Any:
    """What progress asks of a plan; state 0 is of an older unit."""
    units = [Unit(number, ()) for number in range(BLOCKS)]
    state = StateStore(Folder(output.url), RECIPE, "tiktoken")
    for unit in units:
        digest = unit_sha256(unit) if unit.index else "0" * 64
        state.finish(make_state(make_info(unit.index).model_copy(update={"unit_sha256": digest})))
        state.begin(make_info(unit.index).key, datetime.now(UTC))
    return SimpleNamespace(units=units, output=output, state=StateStore(output, RECIPE, "tiktoken"))


@pytest.mark.parametrize("kind", [Folder, Far])
@pytest.mark.parametrize("most", [None, 1, 3, 100])
def test_each_block_counts_once(tmp_path: Path, kind: type[Folder], most: int | None) -> None:
    facts = RunFacts(build_start=datetime(2020, 1, 1, tzinfo=UTC))
    reader = StateReader(make_plan(kind(str(tmp_path))), facts)
    seen = [reader.look(most).blocks for _ in range(BLOCKS + 1)]
    of_each: BlockInfo = make_info(1)
    assert of_each.shard
    assert of_each.holdout
    tokens = of_each.shard.tokens + of_each.holdout.tokens
    count = BLOCKS - 1
    expected = Seen(count, count, count * 12_003, count * tokens, count * of_each.input_bytes)
    assert reader.seen == expected
    assert facts.blocks == count
    assert seen == sorted(seen)
    assert seen[0] == min(most or BLOCKS, BLOCKS) - 1  # the first of them is of another unit


def test_looks_go_on_where_the_store_fails_and_pause_by_what_they_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 0.01, 1.0, 3.0, 10.0, 10.01])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    reader = StateReader(make_plan(Folder(str(tmp_path))))
    pauses: list[float] = []
    stop = threading.Event()
    monkeypatch.setattr(stop, "wait", lambda pause: pauses.append(pause) or len(pauses) > 3)
    look = reader.look

    def fail_once(most: int | None = None) -> Seen:
        if len(pauses) == 1:
            raise OSError("throttled")
        return look(most)

    monkeypatch.setattr(reader, "look", fail_once)
    counts = [seen.blocks for seen in reader.looks(stop, 0.3)]
    assert counts == [0, BLOCKS - 1, BLOCKS - 1]
    assert pauses == [0.3, 0.3, pytest.approx(20), 0.3]
