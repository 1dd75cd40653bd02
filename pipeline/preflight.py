"""Before Beam starts: the first rows of every source go through convert and render, so that a misspelt column costs
seconds, not hours."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import compress

from pipeline.blocks import RowBlock
from pipeline.build_plan import BuildPlan
from pipeline.config import Alpaca, Transform
from pipeline.convert import convert_rows
from pipeline.readers import read_blocks
from pipeline.recipe import load_tools
from pipeline.terminators import check_terminated
from pipeline.token_block import TokenBlock
from pipeline.tokenize import tokenize_documents
from pipeline.turns import TurnAudit, add_audits
from schemas.errors import ConfigError
from schemas.rejects import Reason, Reject
from schemas.urls import without_secrets

ROWS = 1000
BLOCK_BYTES = 2**20
"""The first rows are read in blocks of this size, so that few more are read than asked for."""
_MISREAD = {
    *(Reason.INVALID_UTF8, Reason.INVALID_JSON, Reason.INVALID_CSV, Reason.NOT_AN_OBJECT),
    *(Reason.MISSING_COLUMN, Reason.WRONG_TYPE, Reason.UNKNOWN_ROLE, Reason.EMPTY),
}
"""Reasons that come of another path, format or transform than was meant."""


@dataclass
class Sample:
    """What became of the first rows of one entry of `sources`."""

    path: str
    rows: int = 0
    reasons: Counter[Reason] = field(default_factory=Counter)
    example: Reject | None = None
    example_path: str = ""
    audits: list[TurnAudit] = field(default_factory=list)  # a block each

    @property
    def rejects(self) -> int:
        return self.reasons.total()


class PreflightFailed(ConfigError):
    """More than half of a source's first rows were rejected."""


def check_first_rows(plan: BuildPlan) -> list[str]:
    """Warnings, one a line. Raises PreflightFailed, with a table of the reasons; BudgetExceeded where too few turns
    have an end, with a table of the sources."""
    settings = sorted({file.setting for file in plan.files.values()})
    samples = [_sample(plan, setting) for setting in settings]
    bad = [sample for sample in samples if sample.rejects * 2 > sample.rows]
    if bad:
        raise PreflightFailed("\n".join(_report(sample) for sample in bad))
    audit = add_audits(audit for sample in samples for audit in sample.audits)
    check_terminated(audit, plan.files, plan.recipe, f"Looked at were the first {ROWS:,} rows of each source")
    return [f"{sample.path}: there is no row in it" for sample in samples if not sample.rows]


def _sample(plan: BuildPlan, setting: int) -> Sample:
    source = plan.recipe.config.sources[setting]
    sample = Sample(path=", ".join(map(without_secrets, source.paths)))
    columns: set[str] = set()
    for block in first_rows(plan, setting, ROWS):
        tokens = tokenize_rows(plan, block)
        columns.update(*block.rows)
        sample.rows += sum(tokens.rows.values())
        sample.reasons.update(reject.reason for reject in tokens.rejects)
        if sample.example is None and tokens.rejects:
            sample.example = tokens.rejects[0]
            sample.example_path = without_secrets(plan.urls[sample.example.source])
        sample.audits.append(tokens.turns)
    if plan.generation.number == 0:  # a few new rows may well lack it
        _check_named_columns(sample, source.transform, columns)
    return sample


def _check_named_columns(sample: Sample, transform: Transform, columns: set[str]) -> None:
    """A column that rows may lack must be in some row, where the config names it: it is misspelt otherwise."""
    for key in ("tools_column", "documents_column", "template_kwargs_column", "system_column", "input"):
        name = getattr(transform, key, None)
        is_optional = key != "input" or isinstance(transform, Alpaca)
        if columns and is_optional and key in transform.model_fields_set and name and name not in columns:
            raise PreflightFailed(
                f"{sample.path}: transform.{key}: no column {name!r} in its first {sample.rows} rows, which have "
                f"{', '.join(sorted(columns)[:20])}; mend the name, or leave the key out"
            )


def tokenize_rows(plan: BuildPlan, block: RowBlock) -> TokenBlock:
    documents = convert_rows(block, plan.converters, plan.setting_of_source)
    return tokenize_documents(documents, load_tools(plan.recipe).documents)


def first_rows(plan: BuildPlan, setting: int, count: int) -> Iterator[RowBlock]:
    """Blocks with the first `count` rows of an entry of `sources`; rejects count as rows."""
    config = plan.recipe.config
    size = min(config.block_bytes, BLOCK_BYTES)
    for unit in plan.units:
        if unit.stretches[0].file.setting != setting:
            continue
        for block in read_blocks(unit, size, config.max_line_bytes):
            kept = first_of(block, count)
            count -= len(kept.rows) + len(kept.rejects)
            yield kept
            if not count:
                return


def first_of(block: RowBlock, count: int) -> RowBlock:
    """The first `count` rows of a block, rejects among them, in the order of their places."""
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
        place = f"{sample.example_path} at {sample.example.position}"
        lines.append(f"    the first of them, {place}: {sample.example.detail}")
    if sample.reasons.keys() & _MISREAD:
        lines.append("    check the source's path, format and transform in the config")
    return "\n".join(lines)
