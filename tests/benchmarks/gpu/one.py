"""One case, in this process: `python -m gpu.one NAME RESULT.json --sides ours theirs`.

A side that fails or finds too little memory ends the process, so that nothing of it is left for others.
"""

import argparse
import json
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from gpu.cases import TOKENS_PER_STEP, Case, choose_cases
from gpu.memory import fit_together, fitting_rows
from gpu.ours import Ours
from gpu.packs import make_entries
from gpu.parts import profile_step
from gpu.shapes import shape_of
from gpu.steps import Side, allocated, describe, take_turns
from gpu.theirs import Theirs, Transformers, copy_weights
from gpu.tune import Torchtune

from train.architecture import Architecture
from train.parallel import World, end_process, join_world

TINY_SCALE, TINY_PACKS = 32, 2
HOST_MEMORY = 64 << 30  # assumed without a GPU, where only tiny models are run
OURS, THEIRS = "ours", "theirs"


def run_case(
    case: Case, names: Sequence[str], world: World, *, tiny: bool, steps: int, warm_up: int, shrink: int
) -> dict[str, Any]:
    """The sides side by side. shrink: how often the packs of a micro-batch are halved."""
    device, shape = world.device, shape_of(case.shape, tiny)
    if device.type == "cpu" and case.attention == "varlen":
        case = replace(case, attention="auto")  # compiled, a CPU has none
    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else HOST_MEMORY
    if len(names) > 1 and not fit_together(shape, memory):
        return {"status": "apart"}
    scale = TINY_SCALE if tiny else 1
    seq_len, packs_per_step = case.seq_len // scale, TINY_PACKS if tiny else TOKENS_PER_STEP // case.seq_len
    dtype = "bfloat16" if device.type == "cuda" else "float32"

    def fitting(loss: str, checkpointing: str) -> int:
        return fitting_rows(shape, seq_len, checkpointing, loss, models=len(names), memory=memory, most=packs_per_step)

    sizes = {name: size_of(name, case, fitting, shrink) for name in names}
    if shrink and all(size_of(name, case, fitting, shrink - 1) == size for name, size in sizes.items()):
        return {"status": "too large", "error": "the memory is too small, also for one pack at a time"}
    sides, held = make_sides(case, sizes, shape, dtype, world)
    packs = make_entries(0, seq_len, shape.vocab_size or 0)
    measured = take_turns(sides, packs, packs_per_step, steps, warm_up, device)
    entries = list(islice(packs, packs_per_step))
    others = [allocated(device) - held, held] if len(sides) > 1 else [0]
    told = [
        describe(side, result, shape, entries, other, device)
        | {"profile": profile_step(partial(side.step, entries), device)}
        for side, result, other in zip(sides, measured, others, strict=True)
    ]
    return {"status": "ok", "sides": told}


def size_of(name: str, case: Case, fitting: Callable[[str, str], int], shrink: int) -> tuple[int, bool]:
    """(packs of a micro-batch, whether transformers computes blocks again: where not one pack fits without that)"""
    if name == OURS:
        return max(1, fitting(case.loss, case.checkpointing) >> shrink), False
    whole = fitting("all logits", "none") >> shrink
    return (whole, False) if whole else (max(1, fitting("all logits", "full") >> shrink), True)


def make_sides(
    case: Case, sizes: Mapping[str, tuple[int, bool]], shape: Architecture, dtype: str, world: World
) -> tuple[list[Side], int]:
    """The sides, with equal weights where there are two; and the bytes that the first holds."""
    sides: list[Side] = []
    if OURS in sizes:
        sides.append(Ours(case, shape, sizes[OURS][0], dtype, world))
    held = allocated(world.device)
    if THEIRS in sizes:
        sides.append(make_theirs(case, shape, *sizes[THEIRS], dtype, world.device))
    if len(sides) > 1:
        copy_weights(*sides)
    return sides, held


def make_theirs(
    case: Case, shape: Architecture, rows: int, checkpointing: bool, dtype: str, device: torch.device
) -> Theirs:
    if case.beside == "torchtune":
        return Torchtune(case, shape, rows, dtype, device)
    return Transformers(case, shape, rows, checkpointing, dtype, device)


def facts_of(device: torch.device) -> dict[str, str]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {"device": name, "torch": torch.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("case")
    parser.add_argument("result", type=Path)
    parser.add_argument("--sides", nargs="+", choices=(OURS, THEIRS), default=[OURS])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--shrink", type=int, default=0)
    arguments = parser.parse_args()
    (case,) = choose_cases(f"^{arguments.case}$")
    sizes = {name: getattr(arguments, name) for name in ("tiny", "steps", "warm_up", "shrink")}
    with join_world() as world:
        try:
            result = run_case(case, arguments.sides, world, **sizes)
        except torch.OutOfMemoryError as error:
            result = {"status": "out of memory", "error": str(error)}
        except Exception:
            result = {"status": "failed", "error": traceback.format_exc()}
        arguments.result.write_text(json.dumps(facts_of(world.device) | result))
    end_process(0)


if __name__ == "__main__":
    main()
