"""The trained model as a folder that transformers and vLLM load, with the data set's tokenizer and template."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from schemas.manifest import Manifest
from schemas.store import Folder
from train.architecture import Architecture
from train.model import Decoder
from train.model_folder import CONFIG, GENERATION_CONFIG, SUPPORTED, read_json
from train.weights import INDEX, WEIGHTS, hugging_face_names, stream_full

TOKENIZER = "tokenizer"
TOKENIZER_JSON, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
MAX_FILE_BYTES = 5 * 10**9

Settings = dict[str, Any]


def export(
    model: Decoder, output: Path, *, dataset: Folder, manifest: Manifest, source: Path | None, dtype: torch.dtype
) -> None:
    """Write the model with weights of `dtype` as `output`, in place of an older one. Every rank must call it.

    `dataset` is the folder of `manifest`; its tokenizer/ is copied. `source` is the folder that the model came from,
    None for one made from dimensions. Rank 0 alone writes, and holds at most one file of MAX_FILE_BYTES; the folder
    gets its name when it is complete.
    """
    writes = not dist.is_initialized() or dist.get_rank() == 0
    temporary = output.with_name(f".{output.name}.tmp")
    if writes:
        shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
        temporary.mkdir(parents=True)
        files = _small_files(model.architecture, dataset, manifest, source, dtype)
        for name, data in files.items():
            (temporary / name).write_bytes(data)
    _write_weights(model, temporary, dtype, writes)
    if writes:
        shutil.rmtree(output, ignore_errors=True)
        temporary.rename(output)
    if dist.is_initialized():
        dist.barrier()


def _write_weights(model: Decoder, folder: Path, dtype: torch.dtype, writes: bool) -> None:
    """All ranks gather each parameter, rank 0 keeps those of one file until it is whole."""
    sizes = {name: parameter.numel() * dtype.itemsize for name, parameter in hugging_face_names(model).items()}
    plan = plan_files(sizes, MAX_FILE_BYTES)
    file_of = {name: file for file, names in plan.items() for name in names}
    kept: dict[str, Tensor] = {}
    for name, tensor in stream_full(model):
        if not writes:
            continue
        kept[name] = tensor.to("cpu", dtype).contiguous()
        if len(kept) == len(plan[file_of[name]]):
            save_file(kept, folder / file_of[name], metadata={"format": "pt"})
            kept = {}
    if writes and len(plan) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": file_of}
        (folder / INDEX).write_bytes(_json(index))


def plan_files(sizes: Mapping[str, int], limit: int) -> dict[str, list[str]]:
    """{file: names}, in order, of at most `limit` bytes each, or of one tensor that is larger by itself."""
    groups: list[list[str]] = []
    filled = 0
    for name, size in sizes.items():
        if not groups or filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    if len(groups) == 1:
        return {WEIGHTS: groups[0]}
    return {f"model-{number:05d}-of-{len(groups):05d}.safetensors": names for number, names in enumerate(groups, 1)}


def _small_files(
    architecture: Architecture, dataset: Folder, manifest: Manifest, source: Path | None, dtype: torch.dtype
) -> dict[str, bytes]:
    """{name: bytes} of everything but the weights."""
    files = _tokenizer_files(dataset, source)
    served: Settings = json.loads(files.get(GENERATION_CONFIG, b"{}"))
    own: Settings = {}
    if source is not None and (source / GENERATION_CONFIG).exists():
        own = read_json(source / GENERATION_CONFIG)
    config = _describe(architecture, manifest) if source is None else read_json(source / CONFIG)
    ids = _special_ids(config, own, served, manifest)
    files[GENERATION_CONFIG] = _json({**served, **own, **ids})
    files[CONFIG] = _json({**config, **ids, **_dtype_key(config, dtype)})
    return files


def _tokenizer_files(dataset: Folder, source: Path | None) -> dict[str, bytes]:
    """The data set's. Where they hold no tokenizer.json, as with a bare rank file, servers need the model's own, whose
    settings those of the data set go over: its template is what was trained."""
    files = {path.removeprefix(f"{TOKENIZER}/"): dataset.read(path) for path in dataset.names(TOKENIZER)}
    if source is None or TOKENIZER_JSON in files or not (source / TOKENIZER_JSON).exists():
        return files
    files[TOKENIZER_JSON] = (source / TOKENIZER_JSON).read_bytes()
    if (source / TOKENIZER_CONFIG).exists():
        own = json.loads(files.get(TOKENIZER_CONFIG, b"{}"))
        files[TOKENIZER_CONFIG] = _json({**read_json(source / TOKENIZER_CONFIG), **own})
    return files


def _special_ids(config: Settings, own: Settings, served: Settings, manifest: Manifest) -> Settings:
    """What generation begins with, stops at and pads with.

    It stops at the model's own eos ids and at those of the data set's generation_config, which has what the template
    writes after a last answer and a last call; text without a template ends in the tokenizer's EOS. Begin and padding
    are the model's, or else the data set's.
    """
    written = [*_as_list(own.get("eos_token_id")), *_as_list(config.get("eos_token_id"))]
    written += _as_list(served.get("eos_token_id"))
    written += _as_list(manifest.eos_id) if manifest.chat_template is None else []
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


def _dtype_key(config: Settings, dtype: torch.dtype) -> Settings:
    """transformers 5 reads both names, and 4 at first `torch_dtype` alone."""
    name = str(dtype).removeprefix("torch.")
    return {"dtype": name} if "dtype" in config else {"torch_dtype": name}


def _describe(architecture: Architecture, manifest: Manifest) -> Settings:
    """A config.json in the spelling of transformers 4, which 5 reads as well."""
    window = architecture.sliding_window
    config: Settings = {
        **architecture.model_dump(),
        "architectures": [SUPPORTED[architecture.model_type]],
        "hidden_act": "silu",
        "max_position_embeddings": architecture.max_position_embeddings or manifest.seq_len,
    }
    if architecture.model_type.startswith("qwen"):
        config |= {"use_sliding_window": window is not None, "max_window_layers": 0}
    return config


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
