"""What the commands print: the summary of a build, and a plan."""

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from pipeline.build_plan import BuildPlan
from pipeline.encoders.engines import EngineChoice
from pipeline.launch import BuildResult
from pipeline.progress import StateReader
from schemas.generations import load_dataset
from schemas.manifest import MANIFEST, Certificate, Manifest, TurnCounts
from schemas.policy import LossPolicy


def print_summary(result: BuildResult, console: Console) -> None:
    manifest = result.manifest
    checked = ", every file by its sha256" if result.plan.check_hashes else ""
    word = "built" if result.built else f"already built{checked}"
    console.print(f"{word}: {result.plan.output.shown} (data set {manifest.id[:12]})", highlight=False, markup=False)
    table = facts_table(manifest, result.plan.recipe.config.loss_policy)
    if result.built:
        add_speed(table, result)
    console.print(table)
    for warning in turn_warnings(manifest):
        console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False)


def add_speed(table: Table, result: BuildResult) -> None:
    """The rates of the blocks that this run computed: those of an earlier one cost it nothing."""
    facts = result.facts
    if facts.blocks_before:
        total = facts.blocks + facts.blocks_before
        table.add_row("blocks", f"{facts.blocks_before:,} of {total:,} were there already")
    rate = f", {facts.rate(facts.seconds):.2f} MB/s with {result.workers} worker(s)" if facts.blocks else ""
    table.add_row("time", f"{facts.seconds:.1f} s{rate}")
    if facts.blocks:
        work = facts.work_seconds
        table.add_row(
            "  of which work", f"{work:.1f} s, {facts.rate(work):.2f} MB/s, {facts.input_bytes / 1e6:,.1f} MB"
        )
        table.add_row("memory", f"up to {facts.peak_memory / 2**20:,.0f} MiB a worker")


def facts_table(manifest: Manifest, policy: LossPolicy) -> Table:
    """Rows, rejects, tokens and packs of a data set."""
    totals = manifest.totals
    histogram = {int(byte): count for byte, count in manifest.channels.total.items()}
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("rows", f"{totals.rows:,}")
    table.add_row("rejects", f"{totals.rejects:,}")
    for reason, count in manifest.rejects.counts.items():
        table.add_row(f"  {reason}", f"{count:,}")
    table.add_row("documents", f"{totals.documents:,}")
    table.add_row("tokens", f"{totals.tokens:,}")
    table.add_row("trained tokens", f"{policy.trained_tokens(histogram):,}")
    for name, shown in _turn_rows(manifest.turns.total):
        table.add_row(name, shown)
    for name, count in (("truncated", totals.truncated), ("straddling", totals.straddling)):
        if count:
            table.add_row(name, f"{count:,}")
    table.add_row("packs", f"{totals.packs:,} of {manifest.seq_len:,} tokens in {len(manifest.shards)} shard(s)")
    table.add_row("fill", f"{manifest.fill:.2%}")
    table.add_row("engine", manifest.tokenizer.engine)
    certificate = manifest.certificate
    table.add_row("certified", _certified(certificate) if certificate else "no")
    if manifest.holdout:
        rows = sum(shard.documents for shard in manifest.holdout.shards)
        table.add_row("holdout", f"{rows:,} documents in {len(manifest.holdout.shards)} shard(s)")
    return table


def _turn_rows(turns: TurnCounts) -> Iterator[tuple[str, str]]:
    """What is not as it should be in every data set is told; of a data set without turns nothing."""
    if turns.trained:
        yield "trained turns", f"{turns.trained:,}"
        others = {
            "without an end": turns.trained - turns.terminated,
            "reasoning dropped": turns.reasoning_dropped,
            "prompt not as served": turns.not_served,
        }
        yield from ((f"  {name}", f"{count:,}") for name, count in others.items() if count)
    if turns.cut:
        yield "cut turns", f"{turns.cut:,}"


def turn_warnings(manifest: Manifest) -> Iterator[str]:
    """What a build should say of turns that are not trained as they are served, with what to type."""
    turns = manifest.turns.total
    split = "`--set reasoning_history=split` makes a document of each, as it is served"
    is_split = manifest.config.get("reasoning_history") == "split"
    served = "docs/templates.md says why a split cannot mend it" if is_split else f"where earlier turns change, {split}"
    if turns.reasoning_dropped:
        yield (
            f"{turns.reasoning_dropped:,} of {turns.trained:,} turns: the template drops earlier reasoning, so these "
            f"are trained without theirs{'' if is_split else f'; {split}'}"
        )
    if turns.not_served:
        yield f"{turns.not_served:,} of {turns.trained:,} turns whose prompt is not the one that is served; {served}"
    if turns.cut:
        yield (
            f"{turns.cut:,} turns are cut at seq_len and have no end; `--set too_long=truncate_turns` drops whole "
            "turns instead"
        )


def _certified(certificate: Certificate) -> str:
    equal = f"{certificate.passed:,} of {certificate.compared:,} rows equal"
    return f"{equal} to {certificate.shown_versions} ({certificate.level})"


def print_plan(plan: BuildPlan, engine: EngineChoice, console: Console) -> None:
    config = plan.recipe.config
    for warning in (*plan.warnings, *engine.warnings):
        console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False)
    table = Table("file", "format", "bytes", "units", box=None, pad_edge=False)
    units = _units_by_file(plan)
    for index, file in plan.files.items():
        compression = f" ({file.compression})" if file.compression else ""
        table.add_row(file.url, f"{file.format}{compression}", f"{file.size:,}", f"{units.get(index, 0)}")
    console.print(table)
    total = sum(file.size for file in plan.files.values())
    facts = Table(show_header=False, box=None, pad_edge=False)
    facts.add_row("files", f"{len(plan.files)}, {total:,} bytes")
    facts.add_row("units", f"{len(plan.units)}, blocks of up to {config.block_bytes:,} bytes")
    facts.add_row("recipe", plan.recipe.id)
    facts.add_row("data set", plan.dataset_id)
    facts.add_row("template", plan.recipe.template.origin if plan.recipe.template else "none")
    if plan.unflagged_controls:
        facts.add_row("control tokens", f"those flagged special, and {' '.join(plan.unflagged_controls)}")
    facts.add_row("engine", f"{engine.name} ({engine.reason})" if engine.reason else engine.name)
    facts.add_row("output", f"{plan.output.shown}: {_standing(plan)}")
    console.print(facts)


def _units_by_file(plan: BuildPlan) -> dict[int, int]:
    counts: dict[int, int] = {}
    for unit in plan.units:
        for stretch in unit.stretches:
            counts[stretch.source] = counts.get(stretch.source, 0) + 1
    return counts


def _published(plan: BuildPlan, found: Manifest) -> str:
    if found.id == plan.dataset_id:
        return "built already"
    taken = {(source.setting, source.path) for source in found.sources}
    new = sum((file.setting, file.url) not in taken for file in plan.files.values())
    if found.recipe_id == plan.recipe.id and (new or found.generation):
        return f"holds generation {found.generation}; {new} of these files are new"
    return f"holds another data set ({found.id[:12]})"


def _standing(plan: BuildPlan) -> str:
    """What of this build is there already."""
    if plan.output.size(MANIFEST) is not None:
        return _published(plan, load_dataset(plan.output))
    finished = StateReader(plan).look().blocks
    return f"{finished} blocks finished, not published" if finished else "nothing yet"
