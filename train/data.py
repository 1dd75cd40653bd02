"""The data set as the trainer sees it: pack number -> arrays that view a memory-mapped shard.

manifest.json -- sizes checked --> shard files -- opened when first used, metadata checked --> packs
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from schemas.errors import ConfigError, DatasetError
from schemas.manifest import MANIFEST, Manifest, ShardFile, load_manifest
from schemas.policy import LossPolicy
from schemas.shard import Shard, ShardMeta, map_shard
from schemas.store import Folder, dataset_folder, without_secrets

OPEN_SHARDS = 256
"""Shards that a rank keeps mapped: well below the usual limit of 1,024 open files."""


@dataclass(frozen=True, slots=True)
class Pack:
    """One pack of D documents: read-only views into the shard, no copies."""

    input_ids: npt.NDArray[np.int32]  # [seq_len]
    channel: npt.NDArray[np.uint8]  # [seq_len]
    doc_lengths: npt.NDArray[np.int32]  # [D], their sum <= seq_len
    weight: npt.NDArray[np.float32] | None  # [seq_len]


class PackedDataset:
    """The packs of a local data set, by number: 0 to len - 1 in the order of the manifest's shards.

    Raises DatasetError for a data set that is remote, empty, incomplete or damaged.
    """

    def __init__(self, path: str) -> None:
        folder = _local_folder(path)
        self.manifest: Manifest = load_manifest(folder)
        self._root = folder.local_path("")
        self._borders = np.cumsum([0, *(shard.packs for shard in self.manifest.shards)])
        self._mapped = lru_cache(maxsize=OPEN_SHARDS)(self._open)
        if not len(self):
            raise DatasetError(f"{self._root / MANIFEST}: the data set has no packs; look at its rejects")
        for shard in self.manifest.shards:
            self._check_size(shard)

    def __len__(self) -> int:
        return int(self._borders[-1])

    def __getitem__(self, pack: int) -> Pack:
        assert 0 <= pack < len(self), (pack, len(self))
        shard = int(np.searchsorted(self._borders, pack, side="right")) - 1
        packs, row = self._mapped(shard).locate(pack - int(self._borders[shard]))
        return Pack(
            input_ids=packs.input_ids[row],
            channel=packs.channel[row],
            doc_lengths=packs.doc_lengths[packs.documents(row)],
            weight=None if packs.weight is None else packs.weight[row],
        )

    def _check_size(self, shard: ShardFile) -> None:
        path = self._root / shard.name
        try:
            size = path.stat().st_size
        except OSError as error:
            raise DatasetError(f"{path}: shard is missing or unreadable ({error}); copy the whole data set") from error
        if size != shard.bytes:
            raise DatasetError(
                f"{path}: the file has {size} bytes, the manifest says {shard.bytes}; "
                "copy the data set again, or rebuild it"
            )

    def _open(self, index: int) -> Shard:
        file = self.manifest.shards[index]
        path = self._root / file.name
        shard, expected = map_shard(path), _expected_meta(self.manifest)
        if shard.meta != expected:
            raise DatasetError(f"{path}: {shard.meta} is not what the manifest says, {expected}; rebuild the data set")
        if len(shard) != file.packs:
            raise DatasetError(f"{path}: {len(shard)} packs, the manifest says {file.packs}; rebuild the data set")
        return shard


def _local_folder(path: str) -> Folder:
    if "://" in path and not path.startswith("file://"):
        raise DatasetError(
            f"{without_secrets(path)}: the trainer maps shards into memory and reads local folders only; "
            "copy the data set first and give the copy's folder as dataset.path"
        )
    return dataset_folder(path)


def _expected_meta(manifest: Manifest) -> ShardMeta:
    return ShardMeta(manifest.seq_len, manifest.recipe_id, manifest.pad_id, manifest.tokenizer.sha256)


def check_vocabulary(manifest: Manifest, vocab_size: int | None) -> int:
    """The model's vocabulary: the data set's, unless the config names a larger one. Raises ConfigError."""
    if vocab_size is None:
        return manifest.vocab_size
    if vocab_size < manifest.vocab_size:
        raise ConfigError(
            f"model.vocab_size {vocab_size} is smaller than the data set's vocabulary {manifest.vocab_size}; "
            f"use --set model.vocab_size={manifest.vocab_size}"
        )
    return vocab_size


def count_trained_tokens(manifest: Manifest, policy: LossPolicy) -> int:
    """The tokens that the policy trains, from the manifest alone. Raises ConfigError where there is none."""
    histogram = {int(byte): count for byte, count in manifest.channels.total.items()}
    trained = policy.trained_tokens(histogram)
    if not trained:
        raise ConfigError(
            f"loss_policy trains none of the data set's {sum(histogram.values())} tokens; "
            "use another policy, as in --set loss_policy=all"
        )
    return trained
