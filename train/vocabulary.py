"""Whether a data set was tokenized for the model: ids of another tokenizer would train, and teach nonsense."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from schemas.errors import ConfigError
from schemas.store import Folder
from train.model_folder import read_json

NAME = "tokenizer.json"


def check_same_vocabulary(model: Path, dataset: Folder) -> None:
    """Compare the base vocabularies of the two tokenizer.json, where both are there; added tokens may differ.

    Raises ConfigError with the first token that has another id.
    """
    if not (model / NAME).exists() or dataset.size(f"tokenizer/{NAME}") is None:
        return
    ours, theirs = (_ids(found) for found in (json.loads(dataset.read(f"tokenizer/{NAME}")), read_json(model / NAME)))
    if ours == theirs:
        return
    token = min(ours.keys() ^ theirs.keys() or {token for token in ours if ours[token] != theirs[token]})
    raise ConfigError(
        f"{dataset.shown} was not tokenized for {model}: the token {token!r} is {_shown(ours, token)} in the data "
        f"set's vocabulary of {len(ours):,}, and {_shown(theirs, token)} in the model's of {len(theirs):,}; build "
        "it with the model's tokenizer, or set model.weights=random"
    )


def _ids(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """{token: id}; a Unigram model has a list of (token, score)."""
    vocab = tokenizer["model"]["vocab"]
    return dict(vocab) if isinstance(vocab, dict) else {token: number for number, (token, _) in enumerate(vocab)}


def _shown(ids: Mapping[str, int], token: str) -> str:
    return f"id {ids[token]}" if token in ids else "missing"
