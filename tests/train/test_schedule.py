"""The learning rate is a function of the step alone."""

from typing import Any

import pytest

from train.config import TrainConfig
from train.schedule import learning_rate_at

STEPS, WARMUP, DECAY = 100, 10, 20


def rates(**keys: Any) -> list[float]:
    config = TrainConfig.model_validate(
        {"output": "out", "datasets": [{"path": "data"}], "model": "tiny", "packs_per_step": 1, "steps": STEPS}
        | {"learning_rate": 1.0, "warmup_steps": WARMUP, "decay_steps": DECAY * (keys["schedule"] == "wsd")}
        | keys
    )
    return [learning_rate_at(step, STEPS, config) for step in range(STEPS)]


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "wsd"])
def test_warm_up_is_linear_and_its_last_step_has_the_full_rate(schedule: str) -> None:
    found = rates(schedule=schedule)
    assert found[:WARMUP] == pytest.approx([0.1 * number for number in range(1, 11)])
    assert found[WARMUP] == 1.0
    assert found[WARMUP:] == sorted(found[WARMUP:], reverse=True)


def test_where_the_rate_falls() -> None:
    constant, linear, cosine, wsd = (rates(schedule=name) for name in ("constant", "linear", "cosine", "wsd"))
    assert set(constant[WARMUP:]) == {1.0}
    assert linear[55] == cosine[55] == pytest.approx(0.5)
    assert cosine[20] > linear[20]
    assert cosine[90] < linear[90]
    assert set(wsd[WARMUP : STEPS - DECAY + 1]) == {1.0}
    assert wsd[STEPS - DECAY // 2] == pytest.approx(0.5)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "wsd"])
def test_the_step_after_the_last_would_have_the_final_rate(schedule: str) -> None:
    found = rates(schedule=schedule, final_learning_rate=0.2)
    assert found[-1] > 0.2
    assert found[-1] + (found[-1] - found[-2]) == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "wsd"])
def test_warm_up_may_end_where_the_decay_begins_or_be_none(schedule: str) -> None:
    assert rates(schedule=schedule, warmup_steps=STEPS - DECAY)[STEPS - DECAY - 1] == 1.0
    assert rates(schedule=schedule, warmup_steps=0)[0] == 1.0
