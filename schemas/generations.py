"""A data set that grew: generations, each a manifest that names its parent, read together as one.

    manifest.json <- manifest-0001.json <- manifest-0002.json

The latest is found by asking for the next until there is none: nothing points to it, so nothing has to be overwritten.
"""

import hashlib
from collections.abc import Sequence
from typing import Literal

from schemas.errors import DatasetError
from schemas.manifest import (
    Certificate,
    Channels,
    Holdout,
    Manifest,
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
    digest = ""
    while generation == "latest" or len(chain) <= generation:
        name = manifest_name(len(chain))
        try:
            data = folder.read(name)
        except FileNotFoundError as error:
            if chain and generation == "latest":
                break
            raise DatasetError(_missing(folder, chain)) from error
        except (IsADirectoryError, NotADirectoryError, PermissionError) as error:
            raise DatasetError(
                f"{folder.shown}/{name} cannot be read: {error}; give the folder of a data set"
            ) from error
        manifest = decode_manifest(data, f"{folder.shown}/{name}")
        _check_child(folder, manifest, chain, digest)
        chain.append(manifest)
        digest = hashlib.sha256(data).hexdigest()
    return chain


def _missing(folder: Folder, chain: Sequence[Manifest]) -> str:
    if not chain:
        return f"{folder.shown}/{manifest_name(0)} does not exist: no data set here, or its build has not finished"
    return (
        f"{folder.shown}/{manifest_name(len(chain))} does not exist: the data set's latest generation is "
        f"{len(chain) - 1}; ask for that one, or for `latest`"
    )


def _check_child(folder: Folder, manifest: Manifest, chain: Sequence[Manifest], parent_sha256: str) -> None:
    where = f"{folder.shown}/{manifest_name(len(chain))}"
    if manifest.generation != len(chain):
        raise DatasetError(f"{where}: its generation is {manifest.generation}, its name says {len(chain)}; rebuild it")
    if not chain:
        return
    parent = manifest.parent
    expected = (manifest_name(len(chain) - 1), parent_sha256)
    if parent is None or (parent.name, parent.sha256) != expected:
        raise DatasetError(f"{where}: its parent is not the {expected[0]} that is there; restore both from one copy")
    if manifest.recipe_id != chain[0].recipe_id:
        raise DatasetError(
            f"{where}: its recipe is {manifest.recipe_id[:12]}, that of generation 0 is {chain[0].recipe_id[:12]}; "
            "restore both from one copy"
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
