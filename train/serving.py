"""What stands beside the weights of an exported model: its config, the data set's tokenizer and template, and where
generation stops. All of it is known before a run begins, so nothing of it can fail after the last step.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from schemas.errors import ConfigError, DatasetError
from schemas.manifest import Manifest
from schemas.store import Folder
from train.architecture import Architecture
from train.model_folder import CONFIG, GENERATION_CONFIG, SUPPORTED, read_json

TOKENIZER = "tokenizer"
TOKENIZER_JSON, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"

Settings = dict[str, Any]


class Dataset(Protocol):
    """ShardedPacks, or whatever else says where a data set is and what it is made of."""

    @property
    def path(self) -> str: ...
    @property
    def folder(self) -> Folder: ...
    @property
    def manifest(self) -> Manifest: ...


def serving_files(
    architecture: Architecture, datasets: Sequence[Dataset], source: Path | None, dtype: str
) -> dict[str, bytes]:
    """{name: bytes} of an exported model, but its weights of `dtype`.

    `datasets` have one tokenizer; the template is that of those which have one, and their tokenizer/ is copied.
    `source` is the folder that the model came from, None for one made from dimensions. Raises DatasetError for a data
    set without tokenizer/, ConfigError for two different templates and for a model's file that is no JSON.
    """
    main = _choose(datasets)
    files = _tokenizer_files(main, source)
    own: Settings = {}
    if source is not None and (source / GENERATION_CONFIG).exists():
        own = read_json(source / GENERATION_CONFIG)
    config = _describe(architecture, main.manifest) if source is None else read_json(source / CONFIG)
    ids = _special_ids(config, own, [main, *(dataset for dataset in datasets if dataset is not main)])
    files[GENERATION_CONFIG] = _json({**_served(main), **own, **ids})
    files[CONFIG] = _json({**config, **ids, **_dtype_key(config, dtype)})
    return files


def _choose(datasets: Sequence[Dataset]) -> Dataset:
    """The first that has a template, or else the first."""
    chats = {
        dataset.manifest.chat_template.sha256: dataset
        for dataset in reversed(datasets)
        if dataset.manifest.chat_template
    }
    if len(chats) > 1:
        one, other = list(chats.values())[:2]
        raise ConfigError(
            f"{one.path} and {other.path} are rendered with different chat templates, and a served model has one; "
            "build one of them again with the template of the other"
        )
    return next(iter(chats.values()), datasets[0])


def _served(dataset: Dataset) -> Settings:
    """The generation_config.json of a data set, which has the ids that its template ends a turn with."""
    folder, found = dataset.folder, Settings()
    if folder.size(f"{TOKENIZER}/{GENERATION_CONFIG}") is not None:
        found = json.loads(folder.read(f"{TOKENIZER}/{GENERATION_CONFIG}"))
    return found


def _tokenizer_files(dataset: Dataset, source: Path | None) -> dict[str, bytes]:
    """The data set's. Where they hold no tokenizer.json, as with a bare rank file, servers need the model's own, whose
    settings those of the data set go over: its template is what was trained."""
    folder = dataset.folder
    files = {path.removeprefix(f"{TOKENIZER}/"): folder.read(path) for path in folder.names(TOKENIZER)}
    if not files:
        raise DatasetError(
            f"{folder.shown}/{TOKENIZER} does not exist or is empty, and the trained model needs it; "
            "copy the whole data set"
        )
    if source is None or TOKENIZER_JSON in files or not (source / TOKENIZER_JSON).exists():
        return files
    files[TOKENIZER_JSON] = (source / TOKENIZER_JSON).read_bytes()
    if (source / TOKENIZER_CONFIG).exists():
        own = json.loads(files.get(TOKENIZER_CONFIG, b"{}"))
        files[TOKENIZER_CONFIG] = _json({**read_json(source / TOKENIZER_CONFIG), **own})
    return files


def _special_ids(config: Settings, own: Settings, datasets: Sequence[Dataset]) -> Settings:
    """What generation begins with, stops at and pads with.

    It stops at the model's own eos ids and at those of the data sets' generation_config, which has what the template
    writes after a last answer and a last call; text without a template ends in the tokenizer's EOS. Begin and padding
    are the model's, or else the first data set's.
    """
    written = [*_as_list(own.get("eos_token_id")), *_as_list(config.get("eos_token_id"))]
    for dataset in datasets:
        written += _as_list(_served(dataset).get("eos_token_id"))
        written += _as_list(dataset.manifest.eos_id) if dataset.manifest.chat_template is None else []
    manifest = datasets[0].manifest
    ids = {
        "eos_token_id": list(dict.fromkeys(written)) or None,
        "bos_token_id": _first(own.get("bos_token_id"), config.get("bos_token_id"), manifest.bos_id),
        "pad_token_id": _first(own.get("pad_token_id"), config.get("pad_token_id"), manifest.pad_id),
    }
    return {name: value for name, value in ids.items() if value is not None}


def _as_list(ids: int | list[int] | None) -> list[int]:
    return [] if ids is None else ids if isinstance(ids, list) else [ids]


def _first(*ids: int | None) -> int | None:
    return next((token for token in ids if token is not None), None)


def _dtype_key(config: Settings, dtype: str) -> Settings:
    """transformers 5 reads both names, and 4 at first `torch_dtype` alone."""
    return {"dtype": dtype} if "dtype" in config else {"torch_dtype": dtype}


def _describe(architecture: Architecture, manifest: Manifest) -> Settings:
    """A config.json in the spelling of transformers 4, which 5 reads as well."""
    written = architecture.model_dump(exclude={"rope_scaling", "layer_types"})
    config: Settings = {
        **written,
        "rope_scaling": architecture.rope_scaling and architecture.rope_scaling.model_dump(exclude_none=True),
        "architectures": [SUPPORTED[architecture.model_type]],
        "hidden_act": "silu",
        "max_position_embeddings": architecture.max_position_embeddings or manifest.seq_len,
    }
    return config | _describe_windows(architecture)


def _describe_windows(architecture: Architecture) -> Settings:
    """Which layers have them. Readers of Qwen that know no layer_types take those from max_window_layers on; Mistral
    with layer_types is another class for some readers, so they are only there where they say something."""
    if not architecture.model_type.startswith("qwen"):
        return {"layer_types": architecture.layer_types} if architecture.layer_types else {}
    kinds = ["full_attention" if window is None else "sliding_attention" for window in architecture.windows]
    slides = "sliding_attention" in kinds
    first = kinds.index("sliding_attention") if slides else len(kinds)
    return {"use_sliding_window": slides, "max_window_layers": first, "layer_types": kinds}


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
