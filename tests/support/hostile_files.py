"""Files that mean harm, read as a build reads them."""

from pathlib import Path
from typing import Any

from pipeline.blocks import RowBlock
from pipeline.config import BuildConfig
from pipeline.plan import plan_sources
from pipeline.readers import read_blocks
from schemas.errors import DatasetError


def read_source(path: Path, block_bytes: int = 2**12, max_line_bytes: int = 2**12, **source: Any) -> list[RowBlock]:
    config = BuildConfig.model_validate(
        {
            "output": str(path.parent / "output"),
            "seq_len": 64,
            "tokenizer": {"path": "none"},
            "block_bytes": block_bytes,
            "max_line_bytes": max_line_bytes,
            "sources": [{"path": str(path), "transform": {"type": "text"}, **source}],
        }
    )
    units = plan_sources(config).units
    blocks = [block for unit in units for block in read_blocks(unit, block_bytes, max_line_bytes)]
    for block in blocks:
        block.rows = list(block.rows)
    return blocks


def outcome(path: Path, **settings: Any) -> list[tuple[int, dict[str, Any] | str]]:
    """Each row's place, and the row or the reason for its reject."""
    blocks = read_source(path, **settings)
    found: list[tuple[int, dict[str, Any] | str]] = []
    for block in blocks:
        found += zip(block.positions, block.rows, strict=True)
        found += ((reject.position, str(reject.reason)) for reject in block.rejects)
    return sorted(found, key=lambda each: each[0])


def refusal(path: Path) -> str | None:
    """What is said of a file that is refused; None for one that is read."""
    try:
        outcome(path)
    except DatasetError as error:
        return str(error)
    return None
