"""Run by torchrun in test_step.py: one rank's part of a step through the trainer's own code, for several cases.

usage: gradient_worker.py CASES.json OUTPUT_FOLDER; rank 0 writes each case's loss and full gradients there.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from train.attention import choose_kernel
from train.config import TrainConfig
from train.mixture import PackRef
from train.parallel import World, dtypes_of, end_process, join_world
from train.plan import make_feeder, plan_run
from train.run import make_model
from train.step import accumulate_gradients, count_step


def run_case(case: dict[str, Any], world: World) -> dict[str, Any]:
    config = TrainConfig.model_validate(case["config"])
    plan = plan_run(config, "doctor")
    model = make_model(config, plan.architecture, world)
    feeder = make_feeder(plan, world, config.datasets, plan.datasets)
    microbatches = next(feeder.load(lambda: [[PackRef(0, pack) for pack in case["packs"]]]))
    count = count_step(microbatches, False, world)
    kernel = choose_kernel(config.attention, world.device, dtypes_of(config)[0], config.compile)
    loss = accumulate_gradients(model, microbatches, count, 1, kernel, world)
    here = sum(len(batch.places) for batch in microbatches)
    by_rank = [int(total) for total in world.sum([here * (rank == world.rank) for rank in range(world.ranks)])]
    grads = {name: gather_gradient(parameter) for name, parameter in model.named_parameters()}
    facts = {"loss": loss.mean, "count": count.trained_tokens, "by_rank": by_rank, "microbatches": len(microbatches)}
    return {**facts, "grads": grads}


def gather_gradient(parameter: Tensor) -> Tensor:
    assert isinstance(parameter.grad, DTensor)
    return parameter.grad.full_tensor()


def main() -> None:
    cases, output = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    with join_world() as world:
        for name, case in cases.items():
            result = run_case(case, world)
            if world.rank == 0:
                torch.save(result, output / f"{name}.pt")
    end_process(0)


if __name__ == "__main__":
    main()
