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
    publish_infos(plan, [info for unit in plan.units for info in run_unit(plan, unit)])


def publish_infos(plan: BuildPlan, infos: Sequence[BlockInfo]) -> None:
    _planned(transforms.Publish, plan).process((None, infos))


def run_unit(plan: BuildPlan, unit: Unit) -> Iterator[BlockInfo]:
    for block in _planned(transforms.ReadBlocks, plan).process(unit.index):
        yield block.value if isinstance(block, beam.pvalue.TaggedOutput) else apply_steps(plan, block, STEPS)


def apply_steps(plan: BuildPlan, block: Any, steps: Sequence[Callable[[Any, BuildPlan], Any]]) -> Any:
    for step in steps:
        (block,) = _planned(transforms.Step, plan, step).process(block)
    return block


def _planned(kind: Any, plan: BuildPlan, *arguments: Any) -> Any:
    """A step that has its plan without a file of it."""
    step = kind(None, *arguments)
    step.plan = plan
    return step
