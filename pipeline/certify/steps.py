"""The certificate as a part of the pipeline's steps: requests are made of raw rows before they are converted, and
compared once the block is tokenized."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.blocks import DocumentBlock, RowBlock, Sample
from pipeline.build_plan import BuildPlan
from pipeline.certify.compare import Comparer, Comparison, Pieces, Place, add_comparison, ids_by_row
from pipeline.certify.differences import refuse_differences
from pipeline.certify.oracle import load_oracle
from pipeline.certify.raw_rows import Request, request_of
from pipeline.certify.reread import read_again
from pipeline.certify.sample import block_quota, choose_rows
from pipeline.recipe import load_tools
from pipeline.token_block import TokenBlock
from schemas.manifest import Certificate


def sample_requests(block: RowBlock, plan: BuildPlan) -> list[Sample]:
    """Twice as many as are compared, in the order of their hashes, as some rows will be rejected."""
    quota = _quota(block, plan)
    return make_requests(block, plan, choose_rows(block, plan.urls, 2 * quota)) if quota else []


def _quota(block: RowBlock | DocumentBlock, plan: BuildPlan) -> int:
    if plan.certificate is None or block.key.unit not in plan.sampled_units:
        return 0
    return block_quota(len(plan.sampled_units), block.key.block, last=block.key.last)


def make_requests(block: RowBlock, plan: BuildPlan, chosen: Sequence[int]) -> list[Sample]:
    """A sample of each chosen row of the block."""
    lines: dict[int, list[int]] = {}
    for index in chosen:
        if plan.files[block.sources[index]].format == "jsonl":
            lines.setdefault(block.sources[index], []).append(block.positions[index])
    longest = plan.recipe.config.max_line_bytes
    again = {source: read_again(plan.files[source], positions, longest) for source, positions in lines.items()}
    samples = []
    for index in chosen:
        source, position = block.sources[index], block.positions[index]
        row = again[source][position] if source in again else block.rows[index]
        samples.append(Sample(source, position, _request(row, plan, plan.setting_of_source[source])))
    return samples


def _request(row: Any, plan: BuildPlan, setting: int) -> Request | None:
    """None for a row that cannot be read apart from the pipeline; most of these the pipeline rejects, too."""
    own = getattr(plan.converters[setting], "convert", None)
    function: Callable[..., Any] | None = getattr(own, "function", None)  # of a custom transform
    try:
        request = request_of(row, plan.recipe.config.sources[setting].transform, function)
        json.dumps(request)  # as the block's coder does
    except KeyboardInterrupt:
        raise
    except BaseException:  # a row can be wrong in any way, and so can a user's function
        return None
    return request


def certify_block(block: DocumentBlock, made: TokenBlock, plan: BuildPlan) -> Certificate | None:
    """Raises DatasetError for a difference, unless the config allows them."""
    certificate = plan.certificate
    if certificate is None:
        return None
    if block.samples:
        kept = ids_by_row(made, {sample.place for sample in block.samples})
        chosen = [sample for sample in block.samples if sample.place in kept][: _quota(block, plan)]
        for sample, seen in compare_samples(sorted(chosen, key=lambda each: each.place), block, kept, plan):
            certificate = add_comparison(certificate, sample.place, seen)
    refuse_differences(certificate, plan.urls, allowed=plan.recipe.config.allow_differences)
    return certificate


def compare_samples(
    samples: Sequence[Sample], block: DocumentBlock, ids: Mapping[Place, Pieces], plan: BuildPlan
) -> Iterator[tuple[Sample, Comparison | None]]:
    """Each sample with what came of it; None where there was nothing to compare. `ids` are those of the rows, by place;
    a sample has its document in the block."""
    assert plan.certificate is not None
    tools = load_tools(plan.recipe)
    comparer = Comparer(plan.recipe, tools, load_oracle(plan.recipe, tools, plan.certificate))
    rows = {place: row for row, place in enumerate(zip(block.sources, block.positions, strict=True))}
    for sample in samples:
        place = sample.place
        request = sample.request
        yield sample, None if request is None else comparer.compare(request, block.documents[rows[place]], ids[place])
