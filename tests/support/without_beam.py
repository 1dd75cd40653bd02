"""The pipeline's steps one after the other in this process: a run in a fraction of the time that Beam takes."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apache_beam as beam

from pipeline import transforms
from pipeline.block_info import BlockInfo
from pipeline.blocks import Unit
from pipeline.build_plan import BuildPlan

STEPS = (transforms._convert, transforms._tokenize, transforms._pack, transforms._write)


def run_without_beam(plan: BuildPlan, *_arguments: Any, **_options: Any) -> None:
    """In the place of pipeline.runner.run_beam. Raises BlockFailure."""
    infos = [info for unit in plan.units for info in run_unit(plan, unit)]
    transforms.Publish(plan).process((None, infos))


def run_unit(plan: BuildPlan, unit: Unit) -> Iterator[BlockInfo]:
    for block in transforms.ReadBlocks(plan).process(unit):
        yield block.value if isinstance(block, beam.pvalue.TaggedOutput) else apply_steps(plan, block, STEPS)


def apply_steps(plan: BuildPlan, block: Any, steps: Sequence[Callable[[Any, BuildPlan], Any]]) -> Any:
    for step in steps:
        (block,) = transforms.Step(plan, step).process(block)
    return block
