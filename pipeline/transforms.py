"""The pipeline as Beam sees it. As little logic as possible: each transform wires a pure function of the same name.

    unit -> RowBlock -> DocumentBlock -> TokenBlock -> PackedBlock -> BlockInfo -> manifest

Only numbers of units and BlockInfos cross a shuffle; a block goes from reader to shard inside one fused stage.
"""

import gc
import os
import platform
import resource
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import apache_beam as beam
from apache_beam.metrics import Metrics

from pipeline.assemble import PackedBlock, PackSettings, pack_documents
from pipeline.block_info import BlockInfo, BlockState, unit_sha256
from pipeline.blocks import BlockKey, DocumentBlock, RowBlock, Unit
from pipeline.build_plan import BuildPlan
from pipeline.certify.steps import certify_block, sample_requests
from pipeline.coders import register_coders
from pipeline.convert import convert_rows
from pipeline.encoders.batch import EngineMissing
from pipeline.failures import BlockFailure, BudgetExceeded
from pipeline.plan_file import PlanFile
from pipeline.publish import publish, refuse_engine_difference
from pipeline.readers import read_blocks
from pipeline.recipe import load_tools
from pipeline.token_block import TokenBlock
from pipeline.tokenize import tokenize_documents
from pipeline.write import write_block
from schemas.shard import ShardMeta

register_coders()

Before = TypeVar("Before")
After = TypeVar("After")

FINISHED = "finished"


def _describe(plan: BuildPlan, key: BlockKey | Unit) -> str:
    unit = plan.units[key.unit if isinstance(key, BlockKey) else key.index]
    first = unit.stretches[0]
    more = f" and {len(unit.stretches) - 1} more files" if len(unit.stretches) > 1 else ""
    place = f"block {key.unit}-{key.block}" if isinstance(key, BlockKey) else f"unit {key.index}"
    return f"{first.file.url}{more}, from {first.start} to {first.end} ({place})"


def _failure(plan: BuildPlan, key: BlockKey | Unit, error: Exception) -> BlockFailure:
    """What was being done, and why it failed: a user's error as it is, any other with the line of code it came from."""
    if isinstance(error, ValueError | OSError):
        return BlockFailure("input", f"{_describe(plan, key)}: {error}")
    if isinstance(error, ImportError | EngineMissing):
        return BlockFailure(
            "input",
            f"{_describe(plan, key)}: this worker lacks what the build was started with: {error}; install the same "
            "packages on the workers (of the engine, or build with --set engine=reference)",
        )
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{frame.filename.rpartition('/')[2]}:{frame.lineno}"
    return BlockFailure("bug", f"{_describe(plan, key)}: {type(error).__name__}: {error} [{where}]; --debug shows more")


class PlannedStep(beam.DoFn):  # type: ignore[misc]
    """A step of a plan, which the worker loads."""

    plan: BuildPlan

    def __init__(self, plan_file: PlanFile) -> None:
        self._plan_file = plan_file

    def setup(self) -> None:
        try:
            self.plan = self._plan_file.load()
        except (ValueError, OSError) as error:
            raise BlockFailure("input", str(error)) from error


class ReadBlocks(PlannedStep):
    """The index of a unit -> RowBlock; blocks whose files are there already go to the output `finished` as their
    BlockInfo."""

    def setup(self) -> None:
        """Rows come by the hundred thousand, and each time the collector would walk through all that was loaded."""
        super().setup()
        gc.freeze()

    def process(self, index: int) -> Iterator[Any]:
        unit = self.plan.units[index]
        try:
            finished = _finished_blocks(self.plan, unit)
            yield from (beam.pvalue.TaggedOutput(FINISHED, info) for info in finished)
            if not (finished and finished[-1].last):
                yield from self._read(unit, len(finished))
        except Exception as error:
            raise _failure(self.plan, unit, error) from error

    def _read(self, unit: Unit, finished: int) -> Iterator[RowBlock]:
        """The blocks after the finished ones."""
        config = self.plan.recipe.config
        begun = datetime.now(UTC)
        for block in read_blocks(unit, config.block_bytes, config.max_line_bytes, skip=range(finished).__contains__):
            self.plan.state.begin(block.key, begun)
            _count("read", rows=len(block.rows), rejects=len(block.rejects), bytes=block.bytes)
            yield block
            begun = datetime.now(UTC)


def _finished_blocks(plan: BuildPlan, unit: Unit) -> list[BlockInfo]:
    """The first blocks of a unit that need not be computed again."""
    finished: list[BlockInfo] = []
    while not (finished and finished[-1].last):
        key = BlockKey(unit.index, len(finished), last=False)
        found = plan.state.load_whole(key, unit, by_hash=plan.check_hashes)
        if found is None or found.info.difference or not _is_certified(found.info, plan):
            break
        finished.append(found.info if plan.certificate else found.info.without_certificate())
    return finished


def _is_certified(info: BlockInfo, plan: BuildPlan) -> bool:
    """Whether a block has the certificate that this run wants, if any."""
    wanted, found = plan.certificate, info.certificate
    return wanted is None or (found is not None and found.is_of(wanted))


class Step(PlannedStep):
    """A pure function of (block, plan) as a step of the pipeline."""

    def __init__(self, plan_file: PlanFile, function: Callable[[Any, BuildPlan], Any]) -> None:
        super().__init__(plan_file)
        self.function = function

    def process(self, block: Any) -> Iterator[Any]:
        try:
            yield self.function(block, self.plan)
        except BlockFailure:
            raise
        except Exception as error:
            raise _failure(self.plan, block.key, error) from error


def _convert(block: RowBlock, plan: BuildPlan) -> DocumentBlock:
    samples = sample_requests(block, plan)
    made = convert_rows(block, plan.converters, plan.setting_of_source)
    made.samples = samples
    _count("convert", documents=len(made.documents), rejects=len(made.rejects) - len(block.rejects))
    return made


def _tokenize(block: DocumentBlock, plan: BuildPlan) -> TokenBlock:
    made = tokenize_documents(block, load_tools(plan.recipe).documents)
    made.certificate = certify_block(block, made, plan)
    _count("tokenize", documents=len(made), tokens=len(made.input_ids), rejects=len(made.rejects) - len(block.rejects))
    return made


def _pack(block: TokenBlock, plan: BuildPlan) -> PackedBlock:
    config = plan.recipe.config
    settings = PackSettings(config.seq_len, plan.recipe.pad_id, config.seed, config.holdout, plan.urls)
    made = pack_documents(block, settings)
    _count("pack", packs=len(made.packs or ()), holdout_packs=len(made.holdout or ()))
    return made


def _write(block: PackedBlock, plan: BuildPlan) -> BlockInfo:
    recipe = plan.recipe
    meta = ShardMeta(recipe.config.seq_len, recipe.id, recipe.pad_id, recipe.tokenizer_sha256)
    unit = plan.units[block.key.unit]
    info = write_block(block, meta, unit_sha256(unit), plan.output, plan.generation.tag)
    finished = datetime.now(UTC)
    plan.state.finish(
        BlockState(
            info=info,
            process=f"{platform.node()}:{os.getpid()}",
            peak_memory=peak_memory(),
            begun=plan.state.begun(block.key) or finished,
            finished=finished,
        )
    )
    refuse_engine_difference(info, plan.files, recipe)  # now and not at the end: the whole run is for nothing
    _count("write", shards=int(info.shard is not None), bytes=sum(file.bytes for file in info.files))
    return info


def peak_memory() -> int:
    """The most memory that this process was resident with, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _count(stage: str, **numbers: int) -> None:
    for name, number in numbers.items():
        Metrics.counter("packline", f"{stage}_{name}").inc(number)


def _step(plan_file: PlanFile, function: Callable[[Before, BuildPlan], After], output: type[After]) -> Any:
    return beam.ParDo(Step(plan_file, function)).with_output_types(output)


class Publish(PlannedStep):
    """All BlockInfos -> the manifest. Idempotent: a second attempt finds the manifest there."""

    def process(self, grouped: tuple[None, Iterable[BlockInfo]]) -> None:
        try:
            plan = self.plan
            publish(grouped[1], len(plan.units), plan.files, plan.recipe, plan.generation)
            self.plan.state.mark_published(datetime.now(UTC))
        except BudgetExceeded as error:
            raise BlockFailure("budget", str(error)) from error
        except (ValueError, OSError) as error:
            raise BlockFailure("input", f"publishing: {error}") from error


@dataclass
class BuildDataset(beam.PTransform):  # type: ignore[misc]
    """The indexes of all units -> a published data set."""

    plan_file: PlanFile

    def expand(self, units: Any) -> Any:
        plan = self.plan_file
        read = units | "ReadBlocks" >> beam.ParDo(ReadBlocks(plan)).with_outputs(FINISHED, main="blocks")
        read.blocks.element_type = RowBlock
        written = (
            read.blocks
            | "ConvertRows" >> _step(plan, _convert, DocumentBlock)
            | "TokenizeDocuments" >> _step(plan, _tokenize, TokenBlock)
            | "PackDocuments" >> _step(plan, _pack, PackedBlock)
            | "WriteShards" >> _step(plan, _write, BlockInfo)
        )
        return (
            (written, read[FINISHED])
            | "AllBlocks" >> beam.Flatten()
            | "OneKey" >> beam.Map(lambda info: (None, info))
            | "Gather" >> beam.GroupByKey()
            | "Publish" >> beam.ParDo(Publish(plan))
        )
