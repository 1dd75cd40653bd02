"""What stands in the output folder already, and whether this build may go there."""

import posixpath
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pipeline.build_plan import BuildPlan
from pipeline.exclusive import PROBE
from pipeline.file_sizes import wrong_size
from pipeline.recipe import resolved_config
from schemas.errors import ConfigError
from schemas.generations import load_dataset
from schemas.manifest import MANIFEST, Manifest, Source, load_manifest, named_files
from schemas.store import Folder

UNDER_WAY = timedelta(minutes=15)
"""A build that has written nothing for so long is taken for dead; a block takes seconds."""


def find_published(plan: BuildPlan) -> Manifest | None:
    """The manifest, where this very build is published and whole; None where there is something to build.

    Raises ConfigError where another data set is published there, saying what differs and what to type.
    """
    if plan.output.size(MANIFEST) is None:
        return None
    manifest = load_manifest(plan.output)
    if manifest.id == plan.dataset_id:
        return manifest if is_whole(plan.output, manifest) else None
    whole = load_dataset(plan.output)
    advice = "give another folder with --set output=..., or remove this one first"
    if whole.recipe_id == plan.recipe.id:
        advice = f"`packline watch --once` takes files that are new into a generation of their own; or {advice}"
    raise ConfigError(f"{plan.output.shown} holds {what_differs(plan, whole)}: {advice}")


def what_differs(plan: BuildPlan, manifest: Manifest) -> str:
    """Why a data set is not the planned one."""
    if manifest.recipe_id != plan.recipe.id:
        differences = "; ".join(_differences(manifest.config, resolved_config(plan.recipe.config)))
        differences = differences or "the tokenizer, the template, a custom module or packline itself"
        return f"a data set of another recipe ({differences})"
    changes = "; ".join(_source_changes(manifest.sources, plan))
    return f"this recipe's data set of other sources ({changes})"


def is_whole(output: Folder, manifest: Manifest) -> bool:
    """Whether every file of the manifest is there with its size; what is not is built again."""
    return wrong_size(output, named_files(manifest)) is None


def other_builds(plan: BuildPlan, now: datetime | None = None) -> Iterator[str]:
    """A warning for each build of another recipe that is under way in the same folder, where none is published yet."""
    if plan.output.size(MANIFEST) is not None:
        return
    now = now or datetime.now(UTC)
    for folder in plan.output.names("state"):
        recipe_id, dash, _ = posixpath.basename(folder).partition("-")
        if recipe_id == plan.recipe.id or not dash or folder.startswith(PROBE):
            continue
        youngest = max((file.modified for file in plan.output.files(folder)), default=None)
        if youngest is not None and now - youngest < UNDER_WAY:
            yield (
                f"output: {plan.output.shown}: a build of another recipe ({recipe_id[:12]}) has written here "
                f"{max(0, (now - youngest).total_seconds()):.0f} s ago; the first of the two to end is published, the "
                "other refused: choose another folder with --set output=..."
            )


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    """The config's keys that differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        found = [_differences(old.get(key), new.get(key), f"{path}.{key}".lstrip(".")) for key in keys]
        return [line for lines in found for line in lines]
    return [] if old == new else [f"{path} was {_short(old)}, is {_short(new)}"]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _source_changes(old: Sequence[Source], plan: BuildPlan) -> list[str]:
    before = {source.path: (source.size, source.etag, source.mtime) for source in old}
    after = {file.url: (file.size, file.etag, file.mtime) for file in plan.files.values()}
    changed = [path for path in after if path in before and before[path] != after[path]]
    groups = {
        "added": [path for path in after if path not in before],
        "gone": [path for path in before if path not in after],
        "changed": changed,
    }
    lines = [f"{name}: {_listed(paths)}" for name, paths in groups.items() if paths]
    return lines or ["the same files in another order, or in several generations"]


def _listed(paths: Sequence[str], most: int = 5) -> str:
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return ", ".join(paths[:most]) + more
