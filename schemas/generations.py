"""A data set that grew: generations, each a manifest that names its parent, read together as one.

    manifest.json <- manifest-0001.json <- manifest-0002.json

The latest is found by asking for the next until there is none: nothing points to it, so nothing has to be overwritten.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from schemas.errors import DatasetError
from schemas.manifest import (
    Certificate,
    Channels,
    Holdout,
    Manifest,
    Parent,
    Rejects,
    Totals,
    Turns,
    add_certificates,
    add_histograms,
    add_turns,
    decode_manifest,
    manifest_name,
)
from schemas.store import Folder

Generation = int | Literal["latest"]


def load_dataset(folder: Folder, generation: Generation = "latest") -> Manifest:
    """The data set as it was at a generation: one manifest with the shards, sources and counts of all up to it. Raises
    DatasetError where there is none of that number, or where a manifest is not the child of the one before it."""
    return merge_generations(load_chain(folder, generation))


def load_chain(folder: Folder, generation: Generation = "latest") -> list[Manifest]:
    """The manifests of all generations up to this one, each checked to be the child of the one before."""
    chain: list[Manifest] = []
    for link in read_links(folder):
        chain.append(link.manifest)
        if link.manifest.generation == generation:
            return chain
    if not chain or generation != "latest":
        raise DatasetError(_missing(folder, chain))
    return chain


@dataclass(frozen=True)
class Link:
    """A published generation, and what a child of it must say: the hash of its manifest's bytes."""

    manifest: Manifest
    sha256: str

    @property
    def as_parent(self) -> Parent:
        return Parent(name=manifest_name(self.manifest.generation), sha256=self.sha256)


@dataclass(frozen=True)
class NewGeneration:
    """Where a generation goes that is not there yet: its number, its parent, and how many sources come before its
    own."""

    number: int = 0
    parent: Parent | None = None
    first_source: int = 0

    @property
    def tag(self) -> str:
        """What tells its files from those of the others: nothing for the first, then g0001 and so on."""
        return f"g{self.number:04}" if self.number else ""


FIRST_GENERATION = NewGeneration()


def read_links(folder: Folder, after: Link | None = None) -> Iterator[Link]:
    """Each generation after this one that is there, or after none: all of them. Raises DatasetError for a manifest that
    is not the child of the one before it."""
    while True:
        name = manifest_name(after.manifest.generation + 1 if after else 0)
        try:
            data = folder.read(name)
        except FileNotFoundError:
            return
        except (IsADirectoryError, NotADirectoryError, PermissionError) as error:
            raise DatasetError(
                f"{folder.shown}/{name} cannot be read: {error}; give the folder of a data set"
            ) from error
        manifest = decode_manifest(data, f"{folder.shown}/{name}")
        _check_child(f"{folder.shown}/{name}", manifest, after)
        after = Link(manifest, hashlib.sha256(data).hexdigest())
        yield after


def _missing(folder: Folder, chain: Sequence[Manifest]) -> str:
    if not chain:
        return f"{folder.shown}/{manifest_name(0)} does not exist: no data set here, or its build has not finished"
    return (
        f"{folder.shown}/{manifest_name(len(chain))} does not exist: the data set's latest generation is "
        f"{len(chain) - 1}; ask for that one, or for `latest`"
    )


def _check_child(where: str, manifest: Manifest, before: Link | None) -> None:
    number = before.manifest.generation + 1 if before else 0
    if manifest.generation != number:
        raise DatasetError(f"{where}: its generation is {manifest.generation}, its name says {number}; rebuild it")
    if before is None:
        return
    if manifest.parent != before.as_parent:
        raise DatasetError(
            f"{where}: its parent is not the {before.as_parent.name} that is there; restore both from one copy"
        )
    if manifest.recipe_id != before.manifest.recipe_id:
        raise DatasetError(
            f"{where}: its recipe is {manifest.recipe_id[:12]}, that of its parent is "
            f"{before.manifest.recipe_id[:12]}; restore both from one copy"
        )


def merge_generations(chain: Sequence[Manifest]) -> Manifest:
    """What the generations hold together. Its id and its name are those of the last."""
    last = chain[-1]
    if len(chain) == 1:
        return last
    packs = sum(manifest.totals.packs for manifest in chain)
    tokens = sum(manifest.totals.tokens for manifest in chain)
    return last.model_copy(
        update={
            "sources": [source for manifest in chain for source in manifest.sources],
            "shards": [shard for manifest in chain for shard in manifest.shards],
            "holdout": _merge_holdouts(chain),
            "rejects": _merge_rejects(chain),
            "channels": _merge_channels(chain),
            "turns": _merge_turns(chain),
            "totals": Totals(
                **{name: sum(getattr(manifest.totals, name) for manifest in chain) for name in Totals.model_fields}
            ),
            "fill": round(tokens / (packs * last.seq_len), 6) if packs else 0.0,
            "certificate": _merge_certificates(chain),
        }
    )


def _merge_holdouts(chain: Sequence[Manifest]) -> Holdout | None:
    parts = [manifest.holdout for manifest in chain if manifest.holdout is not None]
    if not parts:
        return None
    return Holdout(
        share=parts[-1].share,
        shards=[shard for part in parts for shard in part.shards],
        channels=add_histograms(part.channels for part in parts),
    )


def _merge_rejects(chain: Sequence[Manifest]) -> Rejects:
    reasons = sorted({reason for manifest in chain for reason in manifest.rejects.counts})
    return Rejects(
        counts={reason: sum(manifest.rejects.counts.get(reason, 0) for manifest in chain) for reason in reasons},
        files=[file for manifest in chain for file in manifest.rejects.files],
    )


def _merge_channels(chain: Sequence[Manifest]) -> Channels:
    """No source is in two generations."""
    return Channels(
        total=add_histograms(manifest.channels.total for manifest in chain),
        sources={source: counts for manifest in chain for source, counts in manifest.channels.sources.items()},
    )


def _merge_turns(chain: Sequence[Manifest]) -> Turns:
    return Turns(
        total=add_turns(manifest.turns.total for manifest in chain),
        sources={source: counts for manifest in chain for source, counts in manifest.turns.sources.items()},
    )


def _merge_certificates(chain: Sequence[Manifest]) -> Certificate | None:
    """None unless all generations were compared with the same oracle."""
    parts = [manifest.certificate for manifest in chain if manifest.certificate is not None]
    if len(parts) < len(chain) or not all(part.is_of(parts[0]) for part in parts):
        return None
    return add_certificates(parts)
