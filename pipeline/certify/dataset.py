"""`packline certify`: every row of a published data set, from its source to the ids in its shards."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from sys import maxsize

import numpy as np
import pyarrow as pa

from pipeline.blocks import RowBlock, Sample
from pipeline.build_plan import BuildPlan, plan_recipe
from pipeline.certify.compare import Comparison, Ids, Piece, Pieces, Place, add_comparison, ids_by_row, pieces_by_row
from pipeline.certify.planned import require_certificate
from pipeline.certify.steps import compare_samples, make_requests
from pipeline.config import BuildConfig
from pipeline.convert import convert_rows
from pipeline.existing import what_differs
from pipeline.plan_again import plan_again, with_first_sources
from pipeline.preflight import first_of
from pipeline.readers import read_blocks
from pipeline.recipe import Recipe, load_tools
from pipeline.tokenize import tokenize_documents
from pipeline.write import block_name
from schemas.errors import ConfigError
from schemas.generations import Generation, load_chain
from schemas.manifest import Certificate, Manifest, ShardFile
from schemas.shard import Packs, read_shard
from schemas.store import Folder, dataset_folder

EXAMPLES = 3
"""Differences that are shown."""


@dataclass
class Report:
    """`certificate` is over all rows that were read. `other_ids`: rows whose ids in the shards are not those that the
    pipeline makes now."""

    recipe: Recipe
    certificate: Certificate
    urls: dict[int, str] = field(default_factory=dict)  # of the sources, by index
    rows: int = 0
    rejects: int = 0
    other_ids: int = 0
    differences: list[tuple[Sample, Comparison]] = field(default_factory=list)
    other_places: list[Place] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not (self.certificate.differences or self.other_ids)


def certify_dataset(
    url: str,
    config: BuildConfig,
    rows: int | None,
    profile: str | None = None,
    *,
    generation: Generation = "latest",
) -> Report:
    """The first `rows` rows of every entry of `sources`, or all. Raises ConfigError for a config that is not the data
    set's, and where transformers is not installed; SourceChanged where a source is no longer what was read."""
    folder = dataset_folder(url, profile)
    chain = load_chain(folder, generation)
    plan = plan_recipe(config.model_copy(update={"output": folder.url, "output_profile": profile}))
    if chain[0].recipe_id != plan.recipe.id:
        raise ConfigError(
            f"{folder.shown} holds {what_differs(plan, chain[0])}: give the config that it was built with, and its "
            "overrides with --set"
        )
    certificate = require_certificate(config, load_tools(plan.recipe).tokenizer.kind)
    report = Report(plan.recipe, certificate)
    left = dict.fromkeys(range(len(config.sources)), maxsize if rows is None else rows)
    for manifest, first_source in with_first_sources(chain):
        each = replace(plan_again(plan, manifest, first_source), certificate=certificate)
        report.urls |= each.urls
        shards = _shards_by_block(manifest)
        for block in _blocks(each, left):
            name = block_name(block.key, each.generation.tag)
            _certify_block(block, each, report, _ids_in_shards(shards.get(name, []), folder))
    return report


def _blocks(plan: BuildPlan, left: dict[int, int]) -> Iterator[RowBlock]:
    """The build's own blocks; of the last one of each entry of `sources` only as many rows as are left to be read."""
    config = plan.recipe.config
    for unit in plan.units:
        setting = unit.stretches[0].file.setting
        blocks = read_blocks(unit, config.block_bytes, config.max_line_bytes)
        while left[setting] and (block := next(blocks, None)):
            kept = first_of(block, left[setting])
            left[setting] -= len(kept.rows) + len(kept.rejects)
            yield kept


def _certify_block(block: RowBlock, plan: BuildPlan, report: Report, in_shards: dict[Place, Pieces]) -> None:
    samples = make_requests(block, plan, range(len(block.rows)))
    documents = convert_rows(block, plan.converters, plan.setting_of_source)
    made = tokenize_documents(documents, load_tools(plan.recipe).documents)
    ids = ids_by_row(made, set(zip(block.sources, block.positions, strict=True)))
    report.rows += sum(made.rows.values())
    report.rejects += len(made.rejects)
    places = zip(block.sources, block.positions, strict=True)
    others = [place for place in places if not _same(ids.get(place, []), in_shards.get(place, []))]
    report.other_ids += len(others)
    report.other_places += others[: EXAMPLES - len(report.other_places)]
    kept = [sample for sample in samples if sample.place in ids]
    for sample, seen in compare_samples(kept, documents, ids, plan):
        report.certificate = add_comparison(report.certificate, sample.place, seen)
        if seen and seen.index is not None and len(report.differences) < EXAMPLES:
            report.differences.append((sample, seen))


def _same(one: Pieces, other: Pieces) -> bool:
    return len(one) == len(other) and all(map(np.array_equal, one, other))


def _shards_by_block(manifest: Manifest) -> dict[str, list[ShardFile]]:
    """By the name of the block that they were made of, which is part of theirs."""
    shards: dict[str, list[ShardFile]] = {}
    for file in (*manifest.shards, *(manifest.holdout.shards if manifest.holdout else ())):
        shards.setdefault(file.name.partition("/")[2].rpartition("-")[0], []).append(file)
    return shards


def _ids_in_shards(files: Sequence[ShardFile], folder: Folder) -> dict[Place, Pieces]:
    """The ids of each row by its place."""
    pieces: dict[Piece, Ids] = {}
    for file in files:
        for packs in read_shard(pa.py_buffer(folder.read(file.name)), file.name).batches:
            pieces |= _documents(packs)
    return pieces_by_row(pieces)


def _documents(packs: Packs) -> dict[Piece, Ids]:
    found = {}
    for pack in range(len(packs)):
        at, span = 0, packs.documents(pack)
        for index in range(span.start, span.stop):
            end = at + int(packs.doc_lengths[index])
            place = int(packs.doc_source[index]), int(packs.doc_position[index]), int(packs.doc_piece[index])
            found[place] = packs.input_ids[pack, at:end]
            at = end
    return found
