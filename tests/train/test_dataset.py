"""The dataset for other trainers, against a slow reference that looks at one token at a time."""

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset

from schemas.errors import ConfigError, DatasetError
from schemas.policy import PRESETS, LossPolicy
from train.dataset import IGNORE, PackedDataset, collate

Build = Callable[..., str]
Dataset = Sequence[Sequence[Any]]
SEQ_LEN, PAD_ID = 16, 49

POLICIES = ["assistant", "all", "last_turn"]


def reference(docs: Sequence[Any], policy: LossPolicy) -> dict[str, list[Any]]:
    """A pack's columns, token by token."""
    table = policy.table()
    item: dict[str, list[Any]] = {
        name: [] for name in ("input_ids", "labels", "position_ids", "cu_seqlens", "loss_weights")
    }
    item["cu_seqlens"].append(0)
    for doc in docs:
        for position, (token, byte, weight) in enumerate(zip(doc.ids, doc.channel, doc.weight, strict=True)):
            trained = bool(table[byte])
            assert not (trained and position == 0)
            item["input_ids"].append(token)
            item["labels"].append(token if trained else IGNORE)
            item["position_ids"].append(position)
            item["loss_weights"].append(weight if trained else 0.0)
        item["cu_seqlens"].append(len(item["input_ids"]))
    padding = SEQ_LEN - len(item["input_ids"])
    for name, values in (("input_ids", PAD_ID), ("labels", IGNORE), ("loss_weights", 0.0)):
        item[name] += [values] * padding
    item["position_ids"] += range(padding)
    item["cu_seqlens"] += [SEQ_LEN] * bool(padding)
    return item


@pytest.fixture
def path(tmp_path: Path, build_dataset: Build, unequal_packs: Dataset) -> str:
    return build_dataset(tmp_path / "packed", unequal_packs, weights=True, holdout=unequal_packs[2:4])


@pytest.mark.parametrize("policy", POLICIES)
def test_items_are_those_of_the_reference(path: str, unequal_packs: Dataset, policy: str) -> None:
    dataset = PackedDataset(path, policy)
    assert len(dataset) == 5
    for number, docs in enumerate(unequal_packs):
        item, expected = dataset[number], reference(docs, PRESETS[policy])
        assert {name: values.tolist() for name, values in item.items()} == expected
        dtypes = {"cu_seqlens": torch.int32, "loss_weights": torch.float32}
        assert all(values.dtype == dtypes.get(name, torch.int64) for name, values in item.items())
    assert sum((item["labels"] != IGNORE).sum() for item in dataset) == {"all": 68 - 9}.get(policy, 20)


def test_a_pack_without_padding_is_among_them(unequal_packs: Dataset) -> None:
    lengths = [sum(len(doc.ids) for doc in pack) for pack in unequal_packs]
    assert min(lengths) < max(lengths) == SEQ_LEN


def test_a_policy_of_ones_own(path: str) -> None:
    assert torch.equal(PackedDataset(path, PRESETS["all"])[2]["labels"], PackedDataset(path, "all")[2]["labels"])


def test_the_holdout_and_its_policy(path: str, unequal_packs: Dataset) -> None:
    holdout = PackedDataset(path, holdout=True)
    assert len(holdout) == 2
    assert holdout[0]["input_ids"].tolist() == reference(unequal_packs[2], PRESETS["assistant"])["input_ids"]


def test_only_the_columns_asked_for(path: str, tmp_path: Path, build_dataset: Build, unequal_packs: Dataset) -> None:
    whole, ids = PackedDataset(path), PackedDataset(path, columns=["input_ids"])
    assert list(ids[1]) == ["input_ids"]
    assert torch.equal(ids[1]["input_ids"], whole[1]["input_ids"])
    PackedDataset(path, "text", columns=["input_ids", "position_ids"])  # a policy matters to labels alone
    plain = build_dataset(tmp_path / "plain", unequal_packs)
    assert "loss_weights" not in PackedDataset(plain)[0]
    with pytest.raises(ConfigError, match="has no column 'loss_weights'; choose from input_ids, labels, "):
        PackedDataset(plain, columns=["loss_weights"])
    with pytest.raises(ConfigError, match="has no column 'ids'"):
        PackedDataset(path, columns=["ids"])


def test_policies_that_cannot_be_used(path: str) -> None:
    with pytest.raises(ConfigError, match="unknown loss_policy 'asistant'; give one of assistant, all,"):
        PackedDataset(path, "asistant")
    with pytest.raises(ConfigError, match="trains none of the data set's 68 tokens"):
        PackedDataset(path, "text")
    with pytest.raises(DatasetError, match=r"manifest\.json does not exist"):
        PackedDataset(f"{path}/elsewhere")


def test_indices_are_those_of_a_list(path: str) -> None:
    dataset = PackedDataset(path)
    last = dataset[4]["input_ids"]
    assert torch.equal(dataset[-1]["input_ids"], last)
    assert torch.equal(dataset[np.int64(-1)]["input_ids"], last)
    assert torch.equal(Subset(dataset, range(3, 5))[1]["input_ids"], last)
    assert len(list(dataset)) == 5
    for outside in (5, -6, 2**40):
        with pytest.raises(IndexError, match="of a data set of 5 packs"):
            dataset[outside]
    for other in (slice(0, 2), 1.0, "1"):
        with pytest.raises(TypeError):
            dataset[other]  # type: ignore[index]


def test_items_are_ones_own_to_change(path: str) -> None:
    dataset = PackedDataset(path)
    before = dataset[0]
    for values in dataset[0].values():
        values.zero_()
    assert all(torch.equal(values, before[name]) for name, values in dataset[0].items())


def test_batches_are_rows_and_the_borders_of_rows_laid_end_to_end(path: str) -> None:
    dataset = PackedDataset(path)
    rows = [dataset[number] for number in (2, 0, 4)]
    batch = collate(rows)
    assert list(batch) == list(rows[0])
    for name in set(batch) - {"cu_seqlens"}:
        assert batch[name].shape == (3, SEQ_LEN)
        assert all(torch.equal(batch[name][index], row[name]) for index, row in enumerate(rows))
    assert batch["cu_seqlens"].dtype == torch.int32
    starts = (batch["position_ids"].flatten() == 0).nonzero().flatten().tolist()
    assert batch["cu_seqlens"].tolist() == [*starts, 3 * SEQ_LEN]
    assert torch.equal(collate(rows[:1])["cu_seqlens"], rows[0]["cu_seqlens"])


def test_it_is_its_path_when_pickled(path: str) -> None:
    dataset = PackedDataset(path, "all", holdout=True, columns=["labels"])
    dataset[0]
    other = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(other[1]["labels"], dataset[1]["labels"])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_load_the_same_batches(path: str, method: str) -> None:
    dataset = PackedDataset(path)
    dataset[0]
    expected = list(DataLoader(dataset, batch_size=2, collate_fn=collate))
    loader = DataLoader(dataset, batch_size=2, collate_fn=collate, num_workers=2, multiprocessing_context=method)
    found = list(loader)
    assert len(found) == 3
    for batch, other in zip(expected, found, strict=True):
        assert all(torch.equal(batch[name], other[name]) for name in batch)
