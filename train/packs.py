"""The data set as the trainer sees it: pack number -> arrays that view a memory-mapped shard.

manifests -- sizes checked --> shard files -- hash and metadata checked when first used --> packs
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import numpy.typing as npt

from schemas.errors import ConfigError, DatasetError
from schemas.generations import Generation, load_chain, merge_generations
from schemas.manifest import Manifest, ShardFile
from schemas.policy import LossPolicy
from schemas.shard import Packs, ShardMeta
from schemas.store import Folder, dataset_folder
from schemas.urls import check_url
from train.cache import ShardCache, default_folder
from train.open_shards import OpenShards
from train.shard_files import ShardFiles
from train.stream import Extent


@dataclass(frozen=True, slots=True)
class Pack:
    """One pack of D documents: read-only views into the shard, no copies."""

    input_ids: npt.NDArray[np.int32]  # [seq_len]
    channel: npt.NDArray[np.uint8]  # [seq_len]
    doc_lengths: npt.NDArray[np.int32]  # [D], their sum <= seq_len
    doc_source: npt.NDArray[np.int32]  # [D], index into the manifest's sources
    weight: npt.NDArray[np.float32] | None  # [seq_len]


class ShardedPacks:
    """The packs of a data set at a generation, by number: 0 to len - 1 in the order of the manifest's shards.

    Shards on a store are fetched into the folder `cache` when they are first used; it holds `cache_bytes` at most, or
    leaves a tenth of the disk free. With `holdout` the packs are those of the holdout shards, which are no part of the
    training data. Raises DatasetError for a data set that is empty, incomplete or damaged. Pickled, it is its path: it
    is opened anew, at the generation that it has.
    """

    def __init__(
        self,
        path: str,
        holdout: bool = False,
        profile: str | None = None,
        generation: Generation = "latest",
        cache: str | Path | None = None,
        cache_bytes: int | None = None,
    ) -> None:
        self.path, self.holdout = path, holdout
        self.cache = ShardCache(Path(cache).expanduser() if cache else default_folder(), cache_bytes)
        self.folder = _readable_folder(path, profile)
        chain = load_chain(self.folder, generation)
        self.manifest: Manifest = merge_generations(chain)
        self.shards = _choose_shards(self.manifest, holdout, self.folder.shown)
        self._ids = [manifest.id for manifest in chain]
        self._shard_counts = list(accumulate(len(_shards_of(manifest, holdout)) for manifest in chain))
        self._borders = list(accumulate((shard.packs for shard in self.shards), initial=0))
        self._open = OpenShards(ShardFiles(self.folder, self.cache), _expected_meta(self.manifest))
        for shard in self.shards:
            self._open.files.check_size(shard)

    def __len__(self) -> int:
        return self._borders[-1]

    def __getitem__(self, number: int) -> Pack:
        packs, row = self.locate(number)
        documents = packs.documents(row)
        return Pack(
            input_ids=packs.input_ids[row],
            channel=packs.channel[row],
            doc_lengths=packs.doc_lengths[documents],
            doc_source=packs.doc_source[documents],
            weight=None if packs.weight is None else packs.weight[row],
        )

    def locate(self, number: int) -> tuple[Packs, int]:
        """The arrays that hold a pack, and the pack's row in them: for who needs one column alone."""
        index = self.shard_of(number)
        return self._open.map(self.shards[index]).locate(number - self._borders[index])

    def shard_of(self, number: int) -> int:
        """The index of the shard that holds a pack."""
        assert 0 <= number < len(self), (number, len(self))
        return bisect_right(self._borders, number) - 1

    def prepare(self, index: int) -> None:
        """Have a shard here and checked, until it is released; any thread may do it. Raises DatasetError for a damaged
        or missing one."""
        self._open.prepare(self.shards[index])

    def cached_bytes(self, index: int) -> int:
        """What a shard takes of the cache: 0 in a local folder."""
        return self.shards[index].bytes if self._open.files.cache else 0

    def release(self, index: int) -> None:
        self._open.release(self.shards[index])

    def extent(self, generation: int) -> Extent:
        """What of it there was at a generation up to its own."""
        shards = self.shards[: self._shard_counts[generation]]
        packs, tokens = tuple(shard.packs for shard in shards), sum(shard.tokens for shard in shards)
        return Extent(self._ids[generation], packs, tokens)

    def at(self, generation: int) -> "ShardedPacks":
        """The data set at a later generation. Packs keep their numbers, and shards that were checked stay so."""
        later = ShardedPacks(
            self.path, self.holdout, self.folder.profile, generation, self.cache.folder, self.cache.max_bytes
        )
        later._open = self._open
        return later

    @property
    def tokens(self) -> int:
        """Of the documents, without the padding."""
        return sum(shard.tokens for shard in self.shards)

    def count_trained_tokens(self, policy: LossPolicy) -> int:
        """The tokens that the policy trains, from the manifest alone. Raises ConfigError where there is none."""
        found = self.manifest.holdout if self.holdout else None
        channels = found.channels if found else self.manifest.channels.total
        histogram = {int(byte): count for byte, count in channels.items()}
        trained = policy.trained_tokens(histogram)
        if not trained:
            raise ConfigError(
                f"{self.path}: loss_policy trains none of the data set's {sum(histogram.values())} tokens; "
                "use another loss_policy, such as `all`"
            )
        return trained

    def __reduce__(self) -> tuple[type["ShardedPacks"], tuple[object, ...]]:
        cache, generation = self.cache, self.manifest.generation
        arguments = (self.path, self.holdout, self.folder.profile, generation, cache.folder, cache.max_bytes)
        return ShardedPacks, arguments


def _shards_of(manifest: Manifest, holdout: bool) -> Sequence[ShardFile]:
    if not holdout:
        return manifest.shards
    return manifest.holdout.shards if manifest.holdout else []


def _readable_folder(path: str, profile: str | None) -> Folder:
    if path.startswith("memory://"):
        raise DatasetError(f"{path}: a memory of each process; put the data set into a folder or on a store")
    check_url("path of a data set", path)
    return dataset_folder(path, profile)


def _choose_shards(manifest: Manifest, holdout: bool, where: str) -> Sequence[ShardFile]:
    shards, advice = _shards_of(manifest, holdout), "the data set has no packs; look at its rejects"
    if holdout:
        advice = "the data set has no holdout; build it with `holdout`, or read its training shards"
    if not sum(shard.packs for shard in shards):
        raise DatasetError(f"{where}: {advice}")
    return shards


def _expected_meta(manifest: Manifest) -> ShardMeta:
    return ShardMeta(manifest.seq_len, manifest.recipe_id, manifest.pad_id, manifest.tokenizer.sha256)


def find_borders(doc_lengths: npt.NDArray[np.int32], seq_len: int) -> npt.NDArray[np.int32]:
    """cu_seqlens, int32[D + 1]: the borders of a pack's D documents, 0 ... seq_len. Padding is one document more."""
    borders = [0, *accumulate(doc_lengths.tolist())]
    return np.array(borders if borders[-1] == seq_len else [*borders, seq_len], dtype=np.int32)


def find_positions(borders: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """position_ids, int64[last border]: 0, 1, ... in each document."""
    return np.arange(borders[-1]) - np.repeat(borders[:-1], np.diff(borders))
