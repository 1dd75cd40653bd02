"""Where a model's weights come from: safetensors, of which each rank reads its own rows alone, or the seed."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from schemas.errors import ConfigError
from train.model import Decoder
from train.model_folder import read_json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
INITIAL_STD = 0.02
UNUSED_SUFFIX = ".rotary_emb.inv_freq"
"""A buffer in the files of the first Llama models; it follows from the config."""


def hugging_face_names(model: Decoder) -> dict[str, Tensor]:
    """The parameters under the names that they have in Hugging Face's files."""
    return {
        name if name.startswith("lm_head.") else f"model.{name}": parameter
        for name, parameter in model.named_parameters()
    }


def load_weights(model: Decoder, folder: Path) -> None:
    """Fill the parameters from model.safetensors, or from the files that its index names, in the parameters' dtype.

    Parameters are plain, or sharded by rows (fully_shard), and have their memory already. A rank reads only its rows,
    one parameter at a time. Raises ConfigError, before anything is read, where names or shapes are not the model's.
    """
    parameters = hugging_face_names(model)
    files = _find_tensors(folder)
    _check_names(parameters, files, folder, tied=model.lm_head is None)
    with ExitStack() as stack, torch.no_grad():
        opened = {path: stack.enter_context(_open(path)) for path in sorted({files[name] for name in parameters})}
        slices = {name: opened[files[name]].get_slice(name) for name in parameters}
        _check_shapes(parameters, {name: tuple(found.get_shape()) for name, found in slices.items()}, folder)
        for name, parameter in parameters.items():
            _fill(parameter, slices[name])


def _find_tensors(folder: Path) -> dict[str, Path]:
    """{name: the file that holds it}"""
    if (folder / INDEX).exists():
        weight_map: dict[str, str] = read_json(folder / INDEX).get("weight_map", {})
        files = {name: folder / file for name, file in weight_map.items()}
        if missing := sorted({path for path in files.values() if not path.exists()}):
            raise ConfigError(f"{missing[0]} does not exist ({len(missing)} files are missing); {INDEX} names it")
        return files
    if not (folder / WEIGHTS).exists():
        raise ConfigError(
            f"{folder} has neither {WEIGHTS} nor {INDEX}: download the model's safetensors, or save it again with "
            "transformers' save_pretrained; for weights made from the seed, set model.weights=random"
        )
    with _open(folder / WEIGHTS) as file:
        return dict.fromkeys(file.keys(), folder / WEIGHTS)


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ConfigError(f"{path} is no whole safetensors file: {error}; download it once more") from error


def _check_names(expected: Iterable[str], found: Iterable[str], folder: Path, tied: bool) -> None:
    if missing := sorted(set(expected) - set(found)):
        raise ConfigError(
            f"{folder}: the weights lack {missing[0]} ({len(missing)} tensors are missing) that config.json asks for; "
            "take the config.json that was saved with them"
        )
    unused = {"lm_head.weight"} if tied else set()
    others = sorted(name for name in set(found) - set(expected) - unused if not name.endswith(UNUSED_SUFFIX))
    if others:
        raise ConfigError(
            f"{folder}: the weights hold {others[0]} ({len(others)} such tensors), for which a model of config.json's "
            "architecture has no place; take the config.json that was saved with them"
        )


def _check_shapes(expected: dict[str, Tensor], found: dict[str, tuple[int, ...]], folder: Path) -> None:
    wrong = sorted(name for name, parameter in expected.items() if found[name] != tuple(parameter.shape))
    if wrong:
        raise ConfigError(
            f"{folder}: {wrong[0]} has the shape {list(found[wrong[0]])}, config.json asks for "
            f"{list(expected[wrong[0]].shape)} ({len(wrong)} tensors have a wrong shape); take the config.json that "
            "was saved with them"
        )


def _fill(parameter: Tensor, rows: Any) -> None:
    """`rows` is a safetensors slice or a tensor; only what is indexed is read."""
    start, stop = local_rows(parameter)
    if start < stop:
        local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        local.copy_(rows[start:stop])


def local_rows(parameter: Tensor) -> tuple[int, int]:
    """(start, stop): the rows of the whole parameter that this rank holds. fully_shard deals them as torch.chunk does:
    equal shares, rounded up, so that the last ranks may have fewer rows or none."""
    rows = parameter.shape[0]
    if not isinstance(parameter, DTensor):
        return 0, rows
    sharded = [dim for dim, placement in enumerate(parameter.placements) if isinstance(placement, Shard)]
    assert [parameter.placements[dim] for dim in sharded] == [Shard(0)]
    share = -(-rows // parameter.device_mesh.size(sharded[0]))
    start = min(rows, share * parameter.device_mesh.get_local_rank(sharded[0]))
    stop = min(rows, start + share)
    assert stop - start == parameter.to_local().shape[0]
    return start, stop


def initialise(model: Decoder, seed: int) -> None:
    """The same weights on any number of ranks: each parameter has a stream of its own, of seed and name.

    Matrices are normal with a deviation of 0.02, norms are 1, biases 0. They are drawn in float32, whatever the dtype,
    and a rank makes one whole parameter at a time and keeps its rows.
    """
    with torch.no_grad():
        for name, parameter in hugging_face_names(model).items():
            _fill(parameter, _initial(name, parameter.shape, seed))


def _initial(name: str, shape: torch.Size, seed: int) -> Tensor:
    if name.endswith("bias"):
        return torch.zeros(shape)
    if name.endswith("norm.weight"):
        return torch.ones(shape)
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    return torch.empty(shape).normal_(std=INITIAL_STD, generator=generator)


def stream_full(model: Decoder) -> Iterator[tuple[str, Tensor]]:
    """(Hugging Face's name, the whole parameter), one after the other; every rank must go through all of them."""
    for name, parameter in hugging_face_names(model).items():
        yield name, (parameter.full_tensor() if isinstance(parameter, DTensor) else parameter).detach()
