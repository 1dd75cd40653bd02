"""A loss or a gradient that is no finite number: the run stops before it reaches the weights, and names the packs."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from train.config import DatasetConfig
from train.feed import StepData
from train.parallel import World
from train.step import StepLoss

NONFINITE = "nonfinite.json"


class NonFiniteStep(ValueError):
    """A step whose loss or gradient is NaN or infinite."""


def check_finite(
    step: int,
    loss: StepLoss,
    grad_norm: float,
    data: StepData,
    entries: Sequence[DatasetConfig],
    output: Path,
    world: World,
) -> None:
    """Raises NonFiniteStep on all ranks alike, after rank 0 has written the step's packs to OUTPUT/nonfinite.json."""
    if math.isfinite(loss.mean) and math.isfinite(grad_norm):
        return
    rows = data.microbatches[0].input_ids.shape[0]
    suspects = [0.0] * len(data.packs)
    for number in loss.broken:
        first = (number * world.ranks + world.rank) * rows
        suspects[first : first + rows] = [1.0] * len(suspects[first : first + rows])
    broken = world.sum(suspects)
    packs = [
        {"dataset": entries[ref.dataset].path, "pack": ref.pack, "finite": not bad}
        for ref, bad in zip(data.packs, broken, strict=True)
    ]
    if world.rank == 0:
        facts = {"step": step, "loss": str(loss.mean), "grad_norm": str(grad_norm), "packs": packs}
        (output / NONFINITE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    first_bad = next((pack for pack in packs if not pack["finite"]), packs[0])
    raise NonFiniteStep(
        f"step {step}: loss {loss.mean}, gradient norm {grad_norm}. The weights of the step before are untouched, and "
        f"the step's packs are in {output / NONFINITE}; look at one with "
        f"`packline inspect {first_bad['dataset']} --pack {first_bad['pack']}`"
    )
