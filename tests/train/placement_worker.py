"""Run by gradient_worker.py: one run that goes on from checkpoint to checkpoint, each time in another placement."""

from typing import Any

import torch.distributed as dist

from train.config import TrainConfig
from train.follow import agree
from train.loop import export_model, run_steps
from train.parallel import World
from train.plan import MODEL, plan_run
from train.run import start_run
from train.signals import stop_on_signals


def run_all(configs: dict[str, dict[str, Any]], world: World) -> None:
    """By the name that the folder of the model gets, after what the trainer does with --resume."""
    for name, values in configs.items():
        config = TrainConfig.model_validate(values)
        plan = agree(plan_run(config, "resume"), "resume", world)
        with stop_on_signals() as stop:
            run = start_run(plan, world, stop)
            assert run_steps(run)
        export_model(plan, run.model, world)
        if world.rank == 0:
            (config.output / MODEL).rename(config.output / name)
        dist.barrier()
