"""Generations in a run: fixed where they are not followed, or else read from the next epoch on; resumed exactly."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from schemas.errors import ConfigError, DatasetError
from train import follow
from train import loop as train_loop
from train.config import TrainConfig
from train.packs import ShardedPacks
from train.plan import plan_run

Runs = Callable[..., list[dict[str, Any]]]
EXACT = ("step", "loss", "grad_norm", "tokens", "trained_tokens")


@pytest.fixture
def config(tmp_path: Path, build_dataset: Callable[..., str], unequal_packs: Sequence[Any]) -> dict[str, Any]:
    """Two data sets of five and of four packs, so that epochs end within steps."""
    return {
        "output": str(tmp_path / "run"),
        "datasets": [
            {"path": build_dataset(tmp_path / "one", unequal_packs), "weight": 2},
            {"path": build_dataset(tmp_path / "two", unequal_packs[1:]), "weight": 1},
        ],
        "model": "tiny",
        "packs_per_step": 3,
        "steps": 8,
        "loss_policy": "all",
        "learning_rate": 0.01,
        "checkpoints": {"every": 4},
    }


@pytest.fixture
def publish_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, add_generation: Callable[..., int], unequal_packs: Sequence[Any]
) -> Callable[[int], None]:
    """Have the next generation of the first data set, three packs more, appear before this step (0 is the first)."""

    def publish(step: int) -> None:
        def do_step(run: Any, *given: Any) -> bool:
            if run.state.step == step:
                add_generation(tmp_path / "one", unequal_packs[:3])
                monkeypatch.setattr(train_loop, "do_step", doing)
            return doing(run, *given)

        doing = train_loop.do_step
        monkeypatch.setattr(train_loop, "do_step", do_step)

    return publish


def run(config: dict[str, Any], mode: Any = "start") -> list[list[Any]]:
    train_loop.train(TrainConfig.model_validate(config), mode)
    lines = map(json.loads, (Path(config["output"]) / "metrics.jsonl").read_text().splitlines())
    return [[line[key] for key in EXACT] for line in lines if line["event"] == "step"]


def state_at(output: str, step: int) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((Path(output) / f"checkpoints/step-{step:08d}/run.json").read_text())
    return state


def stop_after(step: int, whole: str, output: Path) -> dict[str, Any]:
    """The folder of a run that died after this step."""
    shutil.copytree(whole, output)
    shutil.rmtree(output / "model")
    for folder in (output / "checkpoints").iterdir():
        if int(folder.name[-8:]) > step:
            shutil.rmtree(folder)
    return {"output": str(output)}


def follow_first(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "datasets": [{**config["datasets"][0], "generation": "follow"}, config["datasets"][1]]}


def same_weights(one: str, other: str) -> bool:
    tensors = [load_file(Path(output) / "model" / "model.safetensors") for output in (one, other)]
    return all(np.array_equal(tensors[1][name], tensor) for name, tensor in tensors[0].items())


def test_a_new_generation_changes_no_run_that_does_not_follow(
    config: dict[str, Any], tmp_path: Path, add_generation: Callable[..., int], unequal_packs: Sequence[Any]
) -> None:
    """Neither one that goes on, whatever is the newest then."""
    expected = run(config)
    assert run(follow_first({**config, "output": str(tmp_path / "followed")})) == expected
    add_generation(tmp_path / "one", unequal_packs[:3])
    half = {**config, **stop_after(4, config["output"], tmp_path / "half")}
    assert run(half, "resume") == expected
    assert same_weights(config["output"], half["output"])
    assert state_at(half["output"], 8)["generations"] == [[[0, 0]], [[0, 0]]]
    assert run({**config, "output": str(tmp_path / "new")}) != expected
    first = {**config["datasets"][0], "generation": 0}
    pinned = {**config, "output": str(tmp_path / "pinned"), "datasets": [first, config["datasets"][1]]}
    assert run(pinned) == expected
    first["generation"] = 1
    with pytest.raises(ConfigError, match="of other data"):
        run(pinned, "resume")


def test_a_run_that_follows_reads_the_new_generation_from_the_next_epoch_on(
    config: dict[str, Any], tmp_path: Path, publish_before: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Two of three packs are of the first data set: its epochs of five end in the third step and after the fifth. Where
    it goes on after the third, the second epoch has begun, and stays at the generation that it began with."""
    config = {**follow_first(config), "steps": 14, "checkpoints": {"every": 1, "keep": 20}}
    publish_before(3)
    expected = run(config)
    assert f"{config['datasets'][0]['path']}: now at generation 1, 8 packs" in capsys.readouterr().out
    states = [state_at(config["output"], step) for step in range(1, 15)]
    read = [state["generations"][0] for state in states]
    assert read == [[[0, 0]]] * 5 + [[[0, 0], [1, 2]]] * 9
    assert states[4]["taken"][0] == 10
    assert states[13]["taken"][0] >= 10 + 2 * 8
    assert_epochs(config, states[13]["taken"], [range(5), range(5), range(8), range(8)])
    for step in (3, 5, 11):
        half = {**config, **stop_after(step, config["output"], tmp_path / f"half{step}"), "checkpoints": {"every": 14}}
        assert run(half, "resume") == expected
        assert same_weights(config["output"], half["output"])
        for key in ("generations", "taken", "data"):
            assert state_at(half["output"], 14)[key] == states[13][key]


def assert_epochs(config: dict[str, Any], taken: list[int], epochs: list[range]) -> None:
    """The packs of the first data set that the run has given, from the plan of a resumed run."""
    mixture = plan_run(TrainConfig.model_validate(config), "resume").mixture
    packs, after = mixture.take((0, 0), sum(taken))
    assert list(after) == taken
    given = [ref.pack for ref in packs if ref.dataset == 0]
    for epoch in epochs:
        assert sorted(given[: len(epoch)]) == list(epoch)
        given = given[len(epoch) :]


def test_a_run_stops_before_an_epoch_of_a_generation_that_cannot_be_read(
    config: dict[str, Any], tmp_path: Path, publish_before: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(dataset: ShardedPacks) -> int:
        if (found := find_newest(dataset)) > 0:
            (tmp_path / "one" / "shards" / "g0001-00000.arrow").unlink()
        return found

    find_newest = follow.find_newest
    monkeypatch.setattr(follow, "find_newest", find)
    publish_before(3)
    with pytest.raises(DatasetError, match=r"g0001-00000\.arrow: shard is missing"):
        run(follow_first(config))
    train_loop.torch.distributed.destroy_process_group()


def test_ranks_that_found_different_generations_take_the_older(
    config: dict[str, Any], tmp_path: Path, add_generation: Callable[..., int], unequal_packs: Sequence[Any]
) -> None:
    class Others:
        """This rank is the second of three; the others have found generation 0 of the first data set."""

        rank, ranks = 1, 3

        def sum(self, values: Sequence[float]) -> list[float]:
            own = list(values[len(values) // 3 : -len(values) // 3])
            others = [own[0], 0, *own[2:]] if len(own) > 1 else own
            return [*others, *own, *others]

    add_generation(tmp_path / "one", unequal_packs[:3])
    plan = plan_run(TrainConfig.model_validate(config), "start")
    agreed: Any = follow.agree(plan, "start", Others())  # type: ignore[arg-type]
    assert (plan.generations, agreed.generations) == ((1, 0), (0, 0))
    assert [len(dataset) for dataset in agreed.datasets] == [5, 4]


class OneOfTwo:
    """The world as the first of two ranks sees it; `other` is what the second has told."""

    rank, ranks = 0, 2

    def __init__(self, other: float) -> None:
        self.other = other

    def sum(self, values: Sequence[float]) -> list[float]:
        assert values[1] == 0
        self.own = values[0]
        return [self.own, self.other]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"packs_per_step": 4},
        {"packs_per_microbatch": 2},
        {"balance": False},
        {"validation": {"every": 5, "datasets": [{"path": "two"}]}},
        None,
    ],
)
def test_ranks_that_would_read_different_packs_are_refused(
    change: dict[str, Any] | None, config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where each node has a config or a data set of its own at the same path."""
    monkeypatch.chdir(tmp_path)
    rank: Any = OneOfTwo(0)
    plan = plan_run(TrainConfig.model_validate(config), "start")
    with pytest.raises(ConfigError, match="ranks would read different packs"):
        follow.check_same_data(plan, rank)
    rank.other = rank.own
    follow.check_same_data(plan, rank)
    if change is None:
        manifest = tmp_path / "one" / "manifest.json"
        manifest.write_text(manifest.read_text().replace("a" * 64, "f" * 64))
    other = plan_run(TrainConfig.model_validate({**config, **(change or {})}), "start")
    with pytest.raises(ConfigError, match="ranks would read different packs"):
        follow.check_same_data(other, rank)


def test_validation_stays_at_its_generation(
    config: dict[str, Any], tmp_path: Path, add_generation: Callable[..., int], unequal_packs: Sequence[Any]
) -> None:
    config["validation"] = {"every": 5, "datasets": [{"path": config["datasets"][0]["path"]}]}
    run({**config, "steps": 2})
    add_generation(tmp_path / "one", unequal_packs[:3])
    plan = plan_run(TrainConfig.model_validate(config), "resume")
    assert [len(dataset) for dataset in plan.validation] == [5]
    assert plan.state.validation == {config["datasets"][0]["path"]: 0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": None, "epochs": 2, "datasets": [{"path": "a", "generation": "follow"}]}, "how many steps"),
        ({"validation": {"every": 1, "datasets": [{"path": "a", "generation": "follow"}]}}, "have no epochs"),
        ({"datasets": [{"path": "a", "generation": -1}]}, "generation"),
    ],
)
def test_what_cannot_follow_is_refused(config: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig.model_validate({**config, **change})
