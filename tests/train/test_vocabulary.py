"""Ids of another tokenizer are refused, where both tokenizers can be seen."""

import json
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import ConfigError
from schemas.store import Folder
from train.vocabulary import check_same_vocabulary

BPE: dict[str, Any] = {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2}}, "added_tokens": []}
UNIGRAM: dict[str, Any] = {"model": {"type": "Unigram", "vocab": [["a", 0.0], ["b", -1.0], ["c", -2.0]]}}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    model, dataset = tmp_path / "model", tmp_path / "dataset"
    model.mkdir()
    (dataset / "tokenizer").mkdir(parents=True)
    return model, dataset


def with_vocab(tokenizer: dict[str, Any], vocab: Any) -> dict[str, Any]:
    return {**tokenizer, "model": {**tokenizer["model"], "vocab": vocab}}


def check(folders: tuple[Path, Path], model: dict[str, Any] | None, dataset: dict[str, Any] | None) -> None:
    for folder, content in ((folders[0], model), (folders[1] / "tokenizer", dataset)):
        if content is not None:
            (folder / "tokenizer.json").write_text(json.dumps(content))
    check_same_vocabulary(folders[0], Folder(str(folders[1])))


@pytest.mark.parametrize("tokenizer", [BPE, UNIGRAM], ids=["bpe", "unigram"])
def test_the_same_vocabulary_passes(folders: tuple[Path, Path], tokenizer: dict[str, Any]) -> None:
    check(folders, tokenizer, {**tokenizer, "added_tokens": [{"id": 3, "content": "<x>"}]})


@pytest.mark.parametrize(("model", "dataset"), [(None, BPE), (BPE, None), (None, None)])
def test_what_cannot_be_seen_passes(folders: tuple[Path, Path], model: Any, dataset: Any) -> None:
    check(folders, model, dataset)


@pytest.mark.parametrize(
    ("model", "dataset", "message"),
    [
        (with_vocab(BPE, {"a": 0, "b": 2, "c": 1}), BPE, "'b' is id 1 in the data set's vocabulary of 3, and id 2"),
        (with_vocab(BPE, {"a": 0, "b": 1}), BPE, "'c' is id 2 .* and missing in the model's of 2"),
        (with_vocab(UNIGRAM, [["b", 0.0], ["a", 0.0], ["c", 0.0]]), UNIGRAM, "'a' is id 0 .* and id 1"),
    ],
)
def test_another_vocabulary_is_refused(
    folders: tuple[Path, Path], model: dict[str, Any], dataset: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check(folders, model, dataset)
