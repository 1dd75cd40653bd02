"""The data set for other trainers: the same packs, and the same trained tokens, as in our own batches."""

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from schemas.errors import ConfigError, DatasetError
from schemas.policy import PRESETS, LossPolicy, Term
from train.batch import Batch, Entry, make_batch
from train.dataset import IGNORED, PackedDataset, collate
from train.packs import ShardedPacks

Build = Callable[..., str]
Packs = Sequence[Sequence[Any]]
SEQ_LEN, PAD_ID = 16, 49


@pytest.fixture(params=[False, True], ids=["plain", "weights"])
def path(request: pytest.FixtureRequest, tmp_path: Path, build_dataset: Build, unequal_packs: Packs) -> str:
    return build_dataset(tmp_path, unequal_packs, weights=request.param, packs_per_shard=2)


def our_batch(path: str, numbers: Sequence[int], policy: LossPolicy) -> Batch:
    packs = ShardedPacks(path)
    entries = [Entry(packs[number], policy.table(), 0, False) for number in numbers]
    return make_batch(entries, len(entries), SEQ_LEN, per_document=False)


def list_trained(batch: dict[str, Tensor]) -> list[tuple[int, int, float]]:
    """(place, target, weight) in the flattened batch, by shifting labels as a model's loss does."""
    labels = torch.nn.functional.pad(batch["labels"], (0, 1), value=IGNORED)[:, 1:].flatten()
    weights = batch.get("loss_weights", (batch["labels"] != IGNORED).float())
    weights = torch.nn.functional.pad(weights, (0, 1))[:, 1:].flatten()
    places = (labels != IGNORED).nonzero()[:, 0]
    return list(zip(places.tolist(), labels[places].tolist(), weights[places].tolist(), strict=True))


@pytest.mark.parametrize("preset", ["assistant", "all", "last_turn"])
def test_a_batch_is_that_of_our_trainer(path: str, preset: str) -> None:
    numbers = [4, 0, 2, 3]
    dataset = PackedDataset(path, loss_policy=preset)
    batch, ours = collate([dataset[number] for number in numbers]), our_batch(path, numbers, PRESETS[preset])
    assert torch.equal(batch["input_ids"], ours.input_ids)
    assert torch.equal(batch["position_ids"], ours.position_ids)
    assert batch["cu_seqlens"].tolist() == ours.cu_seqlens.unique_consecutive().tolist()
    columns = (ours.places, ours.targets, ours.weights)
    expected = list(zip(*(column.tolist() for column in columns), strict=True))
    assert list_trained(batch) == expected
    assert len(expected) > 10


def test_a_row_is_what_the_documents_say(path: str, unequal_packs: Packs) -> None:
    """Token by token, from what was written."""
    dataset = PackedDataset(path)
    trained = 0
    for number, docs in enumerate(unequal_packs):
        row, places = dataset[number], range(SEQ_LEN)
        tokens = [(doc, place) for doc in docs for place in range(len(doc.ids))]
        padding = SEQ_LEN - len(tokens)
        labels = [doc.ids[place] if doc.channel[place] & 7 == 3 and place else IGNORED for doc, place in tokens]
        assert row["input_ids"].tolist() == [doc.ids[place] for doc, place in tokens] + [PAD_ID] * padding
        assert row["labels"].tolist() == labels + [IGNORED] * padding
        assert row["position_ids"].tolist() == [place for _, place in tokens] + list(range(padding))
        borders = row["cu_seqlens"].tolist()
        assert borders == [place for place in places if row["position_ids"][place] == 0] + [SEQ_LEN]
        if "loss_weights" in row:
            weights = [doc.weight[place] for doc, place in tokens] + [0.0] * padding
            expected = [w if row["labels"][place] != IGNORED else 0.0 for place, w in enumerate(weights)]
            assert row["loss_weights"].tolist() == expected
        trained += sum(label != IGNORED for label in labels)
    assert trained == 4 + 2 + 8 + 1 + 2 + 3


def test_kinds_and_shapes(path: str) -> None:
    row = PackedDataset(path)[0]
    kinds = {name: column.dtype for name, column in row.items()}
    whole = dict.fromkeys(("input_ids", "labels", "position_ids"), torch.int64)
    weights = {"loss_weights": torch.float32} if "loss_weights" in row else {}
    assert kinds == {**whole, "cu_seqlens": torch.int32, **weights}
    assert all(column.shape == (SEQ_LEN,) for name, column in row.items() if name != "cu_seqlens")


def test_a_token_that_weighs_nothing_is_not_trained(tmp_path: Path, build_dataset: Build, doc_type: Any) -> None:
    document = doc_type([1, 2, 3, 4], [2 | 8, 3 | 8, 3 | 8, 3 | 8], [1.0, 0.5, 0.0, 2.0])
    row = PackedDataset(build_dataset(tmp_path, [[document]], weights=True))[0]
    assert row["labels"][:4].tolist() == [IGNORED, 2, IGNORED, 4]
    assert row["loss_weights"][:4].tolist() == [0.0, 0.5, 0.0, 2.0]


def test_a_row_is_ones_own_to_change(path: str) -> None:
    dataset = PackedDataset(path)
    before = dataset[0]["input_ids"].clone()
    for column in dataset[0].values():
        column.zero_()
    assert torch.equal(dataset[0]["input_ids"], before)


def test_indices_are_those_of_a_sequence(path: str) -> None:
    dataset = PackedDataset(path)
    assert len(dataset) == 5
    for last in (-1, np.int64(4), torch.tensor(4)):
        assert torch.equal(dataset[last]["input_ids"], dataset[4]["input_ids"])  # type: ignore[index]
    assert torch.equal(dataset[-5]["input_ids"], dataset[0]["input_ids"])
    for outside in (5, -6):
        with pytest.raises(IndexError, match="has 5 packs"):
            dataset[outside]
    with pytest.raises(TypeError):
        dataset[0:2]  # type: ignore[index]
    assert sum(1 for _ in dataset) == 5  # type: ignore[attr-defined]


def test_columns_can_be_chosen(path: str) -> None:
    assert list(PackedDataset(path, columns=["position_ids", "input_ids"])[1]) == ["position_ids", "input_ids"]
    with pytest.raises(ConfigError, match=r"columns \['ids'\] are not there; there are input_ids, labels"):
        PackedDataset(path, columns=["ids"])  # type: ignore[list-item]


def test_weights_cannot_be_asked_for_where_there_are_none(
    tmp_path: Path, build_dataset: Build, unequal_packs: Packs
) -> None:
    with pytest.raises(ConfigError, match="loss_weights"):
        PackedDataset(build_dataset(tmp_path, unequal_packs), columns=["loss_weights"])


def test_policies(path: str) -> None:
    users = "[{roles: [user]}]"
    policy = LossPolicy(terms=(Term(roles=("user",)),))
    rows = [PackedDataset(path, loss_policy=given)[1]["labels"] for given in (users, policy)]
    assert torch.equal(*rows)
    assert (rows[0] != IGNORED).sum() == 15
    with pytest.raises(ConfigError, match="loss_policy 'asistant': unknown loss policy"):
        PackedDataset(path, loss_policy="asistant")
    with pytest.raises(ConfigError, match="trains none"):
        PackedDataset(path, loss_policy="text")
    assert list(PackedDataset(path, loss_policy="text", columns=["input_ids"])[0]) == ["input_ids"]


def test_the_holdout_is_asked_for(path: str) -> None:
    with pytest.raises(DatasetError, match="has no holdout"):
        PackedDataset(path, holdout=True)


@pytest.mark.parametrize("path", [True], ids=["weights"], indirect=True)
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_read_the_same(path: str, context: str) -> None:
    dataset = PackedDataset(path)
    alone = list(DataLoader(dataset, batch_size=2, collate_fn=collate))
    shared = list(DataLoader(dataset, batch_size=2, collate_fn=collate, num_workers=2, multiprocessing_context=context))
    assert len(alone) == len(shared) == 3
    for one, other in zip(alone, shared, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_pickle_is_small(path: str) -> None:
    dataset = PackedDataset(path, loss_policy="all")
    content = pickle.dumps(dataset)
    copy = pickle.loads(content)
    assert len(content) < 2000
    assert copy[3].keys() == dataset[3].keys()
    assert torch.equal(copy[3]["labels"], dataset[3]["labels"])
