"""Identity: what makes two builds the same."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

RECIPE_FIELDS = (
    "seq_len",
    "seed",
    "template_kwargs",
    "tool_arguments",
    "control_tokens",
    "clock",
    "reasoning_history",
    "too_long",
    "loss_policy",
    "loss_weights",
    "holdout",
    "block_bytes",
    "max_line_bytes",
)
"""The config's fields that decide the bytes of a shard. Budgets, runner, workers and output do not."""

RECIPE_SOURCE_FIELDS = ("format", "transform", "limit", "text_unit")
"""Of each entry of `sources`; its paths are in the data set's id, not in the recipe."""


def canonical_sha256(value: Any) -> str:
    """sha256 of a JSON value: keys sorted, no white space, ASCII."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def dataset_id(recipe_id: str, sources: Iterable[dict[str, Any]], parent_sha256: str | None = None) -> str:
    """The identity of a recipe applied to sources; each is a dict of path, setting (its entry in the
    config), size, etag and mtime. Of a later generation: its own sources, and the hash of its parent's manifest."""
    value = {"recipe_id": recipe_id, "sources": list(sources)}
    return canonical_sha256(value if parent_sha256 is None else {**value, "parent": parent_sha256})
