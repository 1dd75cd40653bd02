"""The last step: every block accounted for, then the manifest, which makes the data set."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from pipeline.block_info import BlockInfo, different_attempts
from pipeline.blocks import SourceFile
from pipeline.certify.differences import refuse_differences
from pipeline.exclusive import SETTLE_SECONDS, create_once
from pipeline.failures import BlockFailure, BudgetExceeded
from pipeline.file_sizes import wrong_size
from pipeline.recipe import Recipe, load_tools, make_dataset_id, resolved_config
from pipeline.serving import tokenizer_folder, write_tokenizer_folder
from pipeline.terminators import check_terminated
from pipeline.turns import TurnAudit, add_audits
from schemas.errors import DatasetError
from schemas.generations import NewGeneration
from schemas.manifest import (
    Certificate,
    Channels,
    Holdout,
    Manifest,
    Rejects,
    ShardFile,
    Source,
    TemplateFacts,
    TokenizerFacts,
    Totals,
    Turns,
    add_certificates,
    add_histograms,
    add_turns,
    load_manifest,
    manifest_name,
)
from schemas.store import Folder

Key = TypeVar("Key", bound=str)


def publish(
    infos: Iterable[BlockInfo],
    unit_count: int,
    files: Mapping[int, SourceFile],
    recipe: Recipe,
    generation: NewGeneration,
    *,
    settle_seconds: float = SETTLE_SECONDS,
) -> Manifest:
    """Write the generation's manifest, once; where it is there already, it must be this one.

    Raises BudgetExceeded where too many rows are rejects or too few turns have an end; DatasetError where a block is
    missing, came out differently on two attempts, lost its shard, or another data set was published into the folder
    meanwhile; BlockFailure where the fast engine was wrong.
    """
    output = recipe.config.output_folder
    blocks = complete_blocks(infos, unit_count)
    for info in blocks:
        refuse_engine_difference(info, files, recipe)
    manifest = make_manifest(blocks, files, recipe, generation)
    _check_quality(manifest, blocks, files, recipe)
    _check_files(blocks, output)
    _write_manifest(manifest, recipe, output, settle_seconds)
    return manifest


def _check_quality(
    manifest: Manifest, blocks: Sequence[BlockInfo], files: Mapping[int, SourceFile], recipe: Recipe
) -> None:
    """The user's limits: rejects, turns without an end, differences from what is served."""
    check_budget(manifest, recipe.config.max_reject_fraction)
    open_turns = tuple(turn for info in blocks for turn in info.turns.open_turns)
    check_terminated(
        TurnAudit(counts=manifest.turns.sources, open_turns=open_turns), files, recipe, "Nothing is published"
    )
    if manifest.certificate:
        urls = {source: file.url for source, file in files.items()}
        refuse_differences(manifest.certificate, urls, allowed=recipe.config.allow_differences)


def _write_manifest(manifest: Manifest, recipe: Recipe, output: Folder, settle_seconds: float) -> None:
    """`tokenizer/` and the manifest. Nothing of another data set that is published here is touched. The tokenizer is
    written a second time: a build of another recipe may have written its own, just before it was refused."""
    name = manifest_name(manifest.generation)
    tokenizer = tokenizer_folder(recipe, load_tools(recipe))
    refuse_other(manifest, output)
    write_tokenizer_folder(tokenizer, output)
    if not create_once(output, name, manifest.encode(), settle_seconds):
        refuse_other(manifest, output)
    write_tokenizer_folder(tokenizer, output)


def refuse_other(manifest: Manifest, output: Folder) -> None:
    """Raises DatasetError where a manifest is published that is not this one. Two builds of one config may differ in
    the engine and the certificate alone; what they publish holds the same shards."""
    name = manifest_name(manifest.generation)
    if output.size(name) is None:
        return
    published = load_manifest(output, manifest.generation)
    if published.id != manifest.id:
        raise DatasetError(
            f"{output.shown}/{name}: another data set ({published.id[:12]}) was published here during this build "
            f"({manifest.id[:12]}); choose another output"
        )
    if published.shards != manifest.shards:
        raise DatasetError(
            f"{output.shown}/{name}: published here already, with other shards of the same rows and recipe: something "
            "in the recipe is not deterministic; look at custom transforms"
        )


def refuse_engine_difference(info: BlockInfo, files: Mapping[int, SourceFile], recipe: Recipe) -> None:
    """Raises BlockFailure for a block in which the fast engine made other ids of a text than the reference."""
    found = info.difference
    if found is not None:
        place = f"{files[found.source].url} at {found.position}"
        raise BlockFailure("engine", f"{place}: {recipe.engine} encodes this otherwise than the reference: {found}")


def complete_blocks(infos: Iterable[BlockInfo], unit_count: int) -> list[BlockInfo]:
    """One info for every block of every unit, in order. Several attempts at a block must agree."""
    found: dict[tuple[int, int], BlockInfo] = {}
    for info in infos:
        if found.setdefault((info.unit, info.block), info) != info:
            raise DatasetError(different_attempts(info))
    last_blocks = {info.unit: info.block for info in found.values() if info.last}
    for unit in range(unit_count):
        if unit not in last_blocks:
            raise DatasetError(f"unit {unit} has no last block: it was not read to its end; build again to finish it")
        for block in range(last_blocks[unit] + 1):
            if (unit, block) not in found:
                raise DatasetError(f"block {unit}-{block} is missing; build again to finish it")
    return [found[key] for key in sorted(found)]


def _check_files(blocks: Sequence[BlockInfo], output: Folder) -> None:
    wrong = wrong_size(output, [file for info in blocks for file in info.files])
    if wrong is not None:
        file, size = wrong
        found = "is missing" if size is None else f"has {size} bytes"
        raise DatasetError(f"{file.name} {found}, {file.bytes} bytes were written; build again")


def check_budget(manifest: Manifest, allowed: float) -> None:
    totals = manifest.totals
    if totals.rows and totals.rejects / totals.rows > allowed:
        reasons = ", ".join(f"{count} {reason}" for reason, count in manifest.rejects.counts.items())
        raise BudgetExceeded(
            f"{totals.rejects} of {totals.rows} rows were rejected ({totals.rejects / totals.rows:.2%}), "
            f"max_reject_fraction is {allowed:.2%}: {reasons}. Nothing is published. The rejects/ folder says "
            "which rows; mend them, or raise the budget with --set max_reject_fraction=..."
        )


def make_manifest(
    blocks: Sequence[BlockInfo], files: Mapping[int, SourceFile], recipe: Recipe, generation: NewGeneration
) -> Manifest:
    """`files` are the generation's own, by index of source."""
    config = recipe.config
    tools = load_tools(recipe)
    tokenizer = tools.tokenizer
    shards = [info.shard for info in blocks if info.shard is not None]
    rows = _add_counts(info.rows for info in blocks)
    packs, tokens = sum(shard.packs for shard in shards), sum(shard.tokens for shard in shards)
    rejects = _add_counts(info.rejects for info in blocks)
    return Manifest(
        id=make_dataset_id(recipe, files.values(), generation.parent),
        recipe_id=recipe.id,
        seq_len=config.seq_len,
        vocab_size=tokenizer.encoder.vocab_size,
        bos_id=tokenizer.token_id("bos_token"),
        eos_id=tokenizer.token_id("eos_token"),
        pad_id=recipe.pad_id,
        end_ids=tools.formatter.end_ids if tools.formatter else [],
        tokenizer=TokenizerFacts(
            kind=tokenizer.kind,
            sha256=tokenizer.sha256,
            engine=recipe.engine,
            libraries=tools.libraries,
        ),
        chat_template=_template_facts(recipe),
        clock=config.day,
        config=resolved_config(config),
        sources=[_source(file, rows.get(str(index), 0)) for index, file in files.items()],
        shards=shards,
        holdout=_holdout(blocks, config.holdout),
        rejects=Rejects(counts=rejects, files=[info.reject_file for info in blocks if info.reject_file]),
        channels=_channels(blocks),
        turns=_turns(blocks),
        totals=Totals(
            rows=sum(rows.values()),
            rejects=sum(rejects.values()),
            packs=packs,
            documents=sum(shard.documents for shard in shards),
            tokens=tokens,
            truncated=sum(info.truncated for info in blocks),
            straddling=sum(info.straddling for info in blocks),
        ),
        fill=round(tokens / (packs * config.seq_len), 6) if packs else 0.0,
        certificate=_certificate(blocks),
        generation=generation.number,
        parent=generation.parent,
    )


def _certificate(blocks: Sequence[BlockInfo]) -> Certificate | None:
    """Either all blocks of a run have one, or none has."""
    parts = [info.certificate for info in blocks if info.certificate is not None]
    assert len(parts) in (0, len(blocks))
    return add_certificates(parts) if parts else None


def _template_facts(recipe: Recipe) -> TemplateFacts | None:
    template = recipe.template
    if template is None:
        return None
    return TemplateFacts(sha256=hashlib.sha256(template.text.encode()).hexdigest(), origin=template.origin)


def _source(file: SourceFile, rows: int) -> Source:
    return Source(path=file.url, setting=file.setting, size=file.size, etag=file.etag, mtime=file.mtime, rows=rows)


def _holdout(blocks: Sequence[BlockInfo], share: float) -> Holdout | None:
    if not share:
        return None
    shards: list[ShardFile] = [info.holdout for info in blocks if info.holdout is not None]
    return Holdout(share=share, shards=shards, channels=add_histograms(info.holdout_channels for info in blocks))


def _channels(blocks: Sequence[BlockInfo]) -> Channels:
    by_source: dict[str, list[Mapping[str, int]]] = {}
    for info in blocks:
        for source, histogram in info.channels.items():
            by_source.setdefault(source, []).append(histogram)
    sources = {source: add_histograms(by_source[source]) for source in sorted(by_source, key=int)}
    return Channels(total=add_histograms(sources.values()), sources=sources)


def _turns(blocks: Sequence[BlockInfo]) -> Turns:
    sources = add_audits(info.turns for info in blocks).counts
    return Turns(total=add_turns(sources.values()), sources=sources)


def _add_counts(counts: Iterable[Mapping[Key, int]]) -> dict[Key, int]:
    total: dict[Key, int] = {}
    for count in counts:
        for key, number in count.items():
            total[key] = total.get(key, 0) + number
    return dict(sorted(total.items()))
