"""Packs by number, and the data sets that are refused."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from train.data import PackedDataset, check_vocabulary, count_trained_tokens

from schemas.errors import ConfigError, DatasetError
from schemas.policy import PRESETS

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
        dataset = PackedDataset(path)
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
    manifest = PackedDataset(build_dataset(tmp_path, unequal_packs)).manifest
    assert count_trained_tokens(manifest, PRESETS["assistant"]) == 4 + 2 + 8 + 1 + 2 + 3
    with pytest.raises(ConfigError, match="trains none of the data set's 68 tokens"):
        count_trained_tokens(manifest, PRESETS["text"])


def test_the_vocabulary_must_hold_the_data(tmp_path: Path, build_dataset: Build, unequal_packs: Dataset) -> None:
    manifest = PackedDataset(build_dataset(tmp_path, unequal_packs)).manifest
    assert check_vocabulary(manifest, None) == 50
    assert check_vocabulary(manifest, 64) == 64
    with pytest.raises(ConfigError, match="49 is smaller than the data set's vocabulary 50"):
        check_vocabulary(manifest, 49)


def test_a_file_of_another_size_is_refused(tmp_path: Path, build_dataset: Build, unequal_packs: Dataset) -> None:
    path = build_dataset(tmp_path, unequal_packs)
    shard = tmp_path / "shards" / "00000.arrow"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(DatasetError, match=f"has {len(whole) - 1} bytes, the manifest says {len(whole)}"):
        PackedDataset(path)
    shard.unlink()
    with pytest.raises(DatasetError, match="missing or unreadable"):
        PackedDataset(path)


def test_shards_of_another_recipe_are_refused(tmp_path: Path, build_dataset: Build, unequal_packs: Dataset) -> None:
    dataset = PackedDataset(build_dataset(tmp_path, unequal_packs, recipe_id="d" * 64))
    with pytest.raises(DatasetError, match="is not what the manifest says"):
        dataset[0]


def test_an_empty_data_set_is_refused(tmp_path: Path, build_dataset: Build) -> None:
    with pytest.raises(DatasetError, match="has no packs"):
        PackedDataset(build_dataset(tmp_path, []))


def test_a_remote_data_set_is_refused_without_its_secrets() -> None:
    with pytest.raises(DatasetError, match="copy the data set first") as caught:
        PackedDataset("s3://key:secret@bucket/data?sig=hidden")
    assert "secret" not in str(caught.value)
    assert "hidden" not in str(caught.value)
