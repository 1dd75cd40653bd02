"""Packs by number, and the data sets that are refused."""

import hashlib
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.errors import ConfigError, DatasetError
from schemas.manifest import MANIFEST, Holdout
from schemas.policy import PRESETS
from train.packs import ShardedPacks, find_borders

Build = Callable[..., str]
Dataset = Sequence[Sequence[Any]]


@pytest.mark.parametrize("weights", [False, True])
def test_packs_come_by_number_whatever_the_shards(
    tmp_path: Path, build_dataset: Build, unequal_packs: Dataset, weights: bool
) -> None:
    for packs_per_shard in (1, 2, 5):
        path = build_dataset(
            tmp_path / str(packs_per_shard), unequal_packs, packs_per_shard=packs_per_shard, weights=weights
        )
        dataset = ShardedPacks(path)
        assert len(dataset) == 5
        for number in (4, 0, 3, 1, 2):
            pack, docs = dataset[number], unequal_packs[number]
            ids = [token for doc in docs for token in doc.ids]
            assert pack.input_ids[: len(ids)].tolist() == ids
            assert pack.doc_lengths.tolist() == [len(doc.ids) for doc in docs]
            assert (pack.weight is not None) == weights
            assert not pack.input_ids.flags.writeable


def test_trained_tokens_are_known_from_the_manifest(
    tmp_path: Path, build_dataset: Build, unequal_packs: Dataset
) -> None:
    dataset = ShardedPacks(build_dataset(tmp_path, unequal_packs))
    assert dataset.count_trained_tokens(PRESETS["assistant"]) == 4 + 2 + 8 + 1 + 2 + 3
    with pytest.raises(ConfigError, match="trains none of the data set's 68 tokens"):
        dataset.count_trained_tokens(PRESETS["text"])


def test_a_file_of_another_size_is_refused(tmp_path: Path, build_dataset: Build, unequal_packs: Dataset) -> None:
    path = build_dataset(tmp_path, unequal_packs)
    shard = tmp_path / "shards" / "00000.arrow"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(DatasetError, match=f"has {len(whole) - 1} bytes, the manifest says {len(whole)}"):
        ShardedPacks(path)
    shard.unlink()
    with pytest.raises(DatasetError, match="missing or unreadable"):
        ShardedPacks(path)


def test_shards_of_another_recipe_are_refused(tmp_path: Path, build_dataset: Build, unequal_packs: Dataset) -> None:
    dataset = ShardedPacks(build_dataset(tmp_path, unequal_packs, recipe_id="d" * 64))
    with pytest.raises(DatasetError, match="is not what the manifest says"):
        dataset[0]


def test_an_empty_data_set_is_refused(tmp_path: Path, build_dataset: Build) -> None:
    with pytest.raises(DatasetError, match="has no packs"):
        ShardedPacks(build_dataset(tmp_path, []))


def test_memory_is_refused() -> None:
    with pytest.raises(DatasetError, match="a memory of each process"):
        ShardedPacks("memory://data")


def test_a_damaged_shard_is_found_when_it_is_first_used(
    tmp_path: Path, build_dataset: Build, unequal_packs: Dataset
) -> None:
    """One bit, in a place that any pack reads or that none does; the other shard can be used."""
    dataset = ShardedPacks(build_dataset(tmp_path, unequal_packs))
    shard = tmp_path / "shards" / "00000.arrow"
    whole = shard.read_bytes()
    for place in (0, len(whole) // 2, len(whole) - 1):
        shard.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(DatasetError, match="is damaged") as caught:
            dataset[0]
        assert str(shard) in str(caught.value)
        for content in (whole, shard.read_bytes()):
            assert hashlib.sha256(content).hexdigest() in str(caught.value)
    assert len(dataset[4].doc_lengths)
    shard.write_bytes(whole)
    assert len(dataset[0].doc_lengths)


def test_equal_shards_are_checked_each(tmp_path: Path, build_dataset: Build, unequal_packs: Dataset) -> None:
    dataset = ShardedPacks(build_dataset(tmp_path, [unequal_packs[0]] * 2, packs_per_shard=1))
    assert dataset.shards[0].sha256 == dataset.shards[1].sha256
    shard = tmp_path / dataset.shards[1].name
    shard.write_bytes(b"!" + shard.read_bytes()[1:])
    assert len(dataset[0].doc_lengths)
    with pytest.raises(DatasetError, match="is damaged"):
        dataset[1]


def test_the_holdout_is_read_apart(tmp_path: Path, build_dataset: Build, unequal_packs: Dataset) -> None:
    whole = ShardedPacks(build_dataset(tmp_path / "whole", unequal_packs))
    with pytest.raises(DatasetError, match="has no holdout"):
        ShardedPacks(str(tmp_path / "whole"), holdout=True)
    holdout = Holdout(share=0.5, shards=whole.manifest.shards[1:], channels=whole.manifest.channels.total)
    manifest = whole.manifest.model_copy(update={"holdout": holdout, "shards": whole.manifest.shards[:1]})
    (tmp_path / "whole" / MANIFEST).write_bytes(manifest.encode())
    training, held_out = ShardedPacks(whole.path), ShardedPacks(whole.path, holdout=True)
    assert (len(training), len(held_out)) == (3, 2)
    assert (training.tokens, held_out.tokens) == (45, 23)
    for number in range(5):
        found = training[number] if number < 3 else held_out[number - 3]
        assert np.array_equal(found.input_ids, whole[number].input_ids)


def test_it_travels_as_its_path(tmp_path: Path, build_dataset: Build, unequal_packs: Dataset) -> None:
    dataset = ShardedPacks(build_dataset(tmp_path, unequal_packs))
    dataset[0]
    packed = pickle.dumps(dataset)
    assert len(packed) < 1000
    assert np.array_equal(pickle.loads(packed)[4].input_ids, dataset[4].input_ids)


def test_the_padding_is_one_document_more() -> None:
    assert find_borders(np.array([3, 2], dtype=np.int32), 8).tolist() == [0, 3, 5, 8]
    assert find_borders(np.array([3, 5], dtype=np.int32), 8).tolist() == [0, 3, 8]
