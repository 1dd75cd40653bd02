"""Certificates without Beam: the steps of a build, one block after the other."""

from dataclasses import replace

from pipeline.build_plan import BuildPlan
from pipeline.certify.steps import certify_block, sample_requests
from pipeline.convert import convert_rows
from pipeline.readers import read_blocks
from pipeline.recipe import load_tools
from pipeline.tokenize import tokenize_documents
from schemas.manifest import Certificate, add_certificates


def certify_plan(plan: BuildPlan) -> Certificate:
    """What the steps of a build give, block by block."""
    config = plan.recipe.config
    parts = []
    for unit in plan.units:
        for block in read_blocks(unit, config.block_bytes, config.max_line_bytes):
            samples = sample_requests(block, plan)
            documents = replace(convert_rows(block, plan.converters, plan.setting_of_source), samples=samples)
            made = tokenize_documents(documents, load_tools(plan.recipe).documents)
            part = certify_block(documents, made, plan)
            assert part is not None
            parts.append(part)
    return add_certificates(parts)
