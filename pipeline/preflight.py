"""Before Beam starts: the first rows of every source go through convert and render, so that a misspelt column costs
seconds, not hours."""

from collections import Counter
from dataclasses import dataclass, field
from itertools import compress, islice

from pipeline.blocks import RowBlock, Unit
from pipeline.build_plan import BuildPlan
from pipeline.convert import convert_rows
from pipeline.readers import read_blocks
from pipeline.recipe import load_tools
from pipeline.tokenize import tokenize_documents
from schemas.errors import ConfigError
from schemas.rejects import Reason, Reject

ROWS = 1000
ROW_BYTES = 8 * 2**20
"""The first rows are looked for in a block of this size at most."""


@dataclass
class Sample:
    """What became of the first rows of one entry of `sources`."""

    path: str
    rows: int = 0
    reasons: Counter[Reason] = field(default_factory=Counter)
    example: Reject | None = None

    @property
    def rejects(self) -> int:
        return self.reasons.total()


class PreflightFailed(ConfigError):
    """More than half of a source's first rows were rejected."""


def check_first_rows(plan: BuildPlan) -> list[Sample]:
    """Raises PreflightFailed, with a table of the reasons."""
    samples = [_sample(plan, setting) for setting in range(len(plan.recipe.config.sources))]
    bad = [sample for sample in samples if sample.rejects * 2 > sample.rows]
    if bad:
        raise PreflightFailed("\n".join(_report(sample) for sample in bad))
    return samples


def _sample(plan: BuildPlan, setting: int) -> Sample:
    sample = Sample(path=", ".join(plan.recipe.config.sources[setting].paths))
    units = (unit for unit in plan.units if unit.stretches[0].file.setting == setting)
    for unit in units:
        block = first_rows(plan, unit, ROWS - sample.rows)
        documents = convert_rows(block, plan.converters, [file.setting for file in plan.files])
        tokens = tokenize_documents(documents, load_tools(plan.recipe).documents)
        sample.rows += sum(tokens.rows.values())
        sample.reasons.update(reject.reason for reject in tokens.rejects)
        sample.example = sample.example or next(iter(tokens.rejects), None)
        if sample.rows >= ROWS:
            break
    return sample


def first_rows(plan: BuildPlan, unit: Unit, count: int) -> RowBlock:
    """The first `count` rows of a unit, or fewer where its first block has no more; rejects count as rows."""
    config = plan.recipe.config
    size = min(config.block_bytes, ROW_BYTES)
    block = next(islice(read_blocks(unit, size, config.max_line_bytes), 1))
    places = [*zip(block.sources, block.positions, strict=True), *((r.source, r.position) for r in block.rejects)]
    chosen = set(sorted(places)[:count])
    kept = [place in chosen for place in places[: len(block.rows)]]
    return RowBlock(
        key=block.key,
        sources=list(compress(block.sources, kept)),
        positions=list(compress(block.positions, kept)),
        rows=list(compress(block.rows, kept)),
        rejects=[reject for reject in block.rejects if (reject.source, reject.position) in chosen],
        bytes=block.bytes,
    )


def _report(sample: Sample) -> str:
    lines = [f"{sample.path}: {sample.rejects} of its first {sample.rows} rows are rejected:"]
    lines += [f"    {count:>6}  {reason}" for reason, count in sample.reasons.most_common()]
    if sample.example:
        lines.append(f"    the first, at position {sample.example.position}: {sample.example.detail}")
    return "\n".join([*lines, "    check the source's path, format and transform in the config"])
