"""The trained model as a folder that transformers and vLLM load."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from train.model import Decoder
from train.weights import INDEX, WEIGHTS, hugging_face_names, stream_full

MAX_FILE_BYTES = 5 * 10**9


def export(model: Decoder, output: Path, files: Mapping[str, bytes], dtype: torch.dtype) -> None:
    """Write the model with weights of `dtype` as `output`, in place of an older one. Every rank must call it.

    `files` are those beside the weights, see train.serving. Rank 0 alone writes, and holds at most one file of
    MAX_FILE_BYTES; the folder gets its name when it is complete.
    """
    writes = not dist.is_initialized() or dist.get_rank() == 0
    temporary = output.with_name(f".{output.name}.tmp")
    if writes:
        shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
        temporary.mkdir(parents=True)
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
            (folder / file_of[name]).chmod(folder.stat().st_mode & 0o666)  # save_file keeps it to its owner
            kept = {}
    if writes and len(plan) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": file_of}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


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
