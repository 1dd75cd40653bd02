"""A loss or a gradient that is no finite number: the run stops before it reaches the weights, and names the packs."""

import json
from collections.abc import Sequence
from pathlib import Path

from train.config import DatasetConfig
from train.feed import StepData
from train.parallel import World
from train.step import StepLoss

NONFINITE = "nonfinite.json"


class NonFiniteStep(ValueError):
    """A step whose loss or gradient is NaN or infinite."""


def find_nonfinite(
    step: int,
    loss: StepLoss,
    grad_norm: float,
    data: StepData,
    entries: Sequence[DatasetConfig],
    output: Path,
    world: World,
) -> NonFiniteStep:
    """The error to raise; rank 0 has written the step's packs to OUTPUT/nonfinite.json. Every rank must call it."""
    mine = {data.places[row] for row in loss.broken}
    broken = world.sum([float(number in mine) for number in range(len(data.packs))])
    packs = [
        {
            "dataset": entries[ref.dataset].path,
            "profile": entries[ref.dataset].profile,
            "holdout": entries[ref.dataset].holdout,
            "pack": ref.pack,
            "finite": not bad,
        }
        for ref, bad in zip(data.packs, broken, strict=True)
    ]
    facts = {"step": step, "loss": str(loss.mean), "grad_norm": str(grad_norm), "packs": packs}
    written = f"this step's packs are in {output / NONFINITE}"
    try:
        if world.rank == 0:
            (output / NONFINITE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    except OSError as failed:
        written = f"this step's packs could not be written: {failed}"
    bad = [pack for pack in packs if not pack["finite"]]
    look = "; the loss itself is finite, so no pack can be told from the others"
    if bad:
        profile = f" --profile {bad[0]['profile']}" if bad[0]["profile"] else ""
        holdout = " --holdout" if bad[0]["holdout"] else ""
        look = f"; look with `packline inspect {bad[0]['dataset']} --pack {bad[0]['pack']}{profile}{holdout}`"
    return NonFiniteStep(f"step {step}: loss {loss.mean}, gradient norm {grad_norm}; {written}{look}")
