"""Checkpoints: what a run needs to go on as if it had never stopped, on any number of ranks.

    OUTPUT/checkpoints/step-00000100/    run.json, and the sharded state as torch.distributed.checkpoint writes it

A folder has this name only when every rank has written its part; until then it is .step-00000100.tmp.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer

from schemas.errors import ConfigError
from schemas.local_files import sync_path
from schemas.manifest import first_problem
from train.architecture import Architecture
from train.stream import Segment

FOLDER = "checkpoints"
RUN = "run.json"
SETTINGS = ("lr", "betas", "weight_decay")


class RunState(BaseModel):
    """Where a run is, and what it must be the same run by."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["2"] = "2"
    step: int  # steps done, the skipped ones included
    skipped: int
    taken: tuple[int, ...]  # packs of each data set
    generations: tuple[tuple[Segment, ...], ...]  # that its epochs read
    validation: dict[str, int]  # the generation of each path of a validation data set
    data: str  # the fingerprint of what the order of packs depends on
    packs_per_step: int
    loss: str  # the fingerprint of policies and normalization
    architecture: Architecture
    master_dtype: str
    config: dict[str, Any]  # as it was then


def save_checkpoint(output: Path, state: RunState, model: nn.Module, optimizer: Optimizer, keep: int) -> Path | None:
    """Every rank must call it. Returns when the checkpoint is complete; older ones than the newest `keep` go.

    A step that has one already, as after a resume, is not saved again: None. Raises ConfigError where ranks do not
    write into the same folder.
    """
    final = output / FOLDER / f"step-{state.step:08d}"
    if final in list_checkpoints(output):
        return None
    temporary = final.with_name(f".{final.name}.tmp")
    if dist.get_rank() == 0:
        _remove_remnants(final.parent)
        temporary.mkdir(parents=True)
    dist.barrier()
    save(_tensors(model, optimizer), checkpoint_id=temporary)
    if dist.get_rank() == 0:
        _check_all_wrote(temporary)
        (temporary / RUN).write_text(state.model_dump_json(indent=1) + "\n", encoding="utf-8")
        _sync(temporary)
        temporary.rename(final)
        for old in list_checkpoints(output)[:-keep]:
            _remove(old)
    dist.barrier()
    return final


def _remove_remnants(folder: Path) -> None:
    """Of runs that were killed while they saved, or removed an old checkpoint."""
    for pattern in (".step-*.tmp", ".step-*.old"):
        for remnant in folder.glob(pattern):
            shutil.rmtree(remnant)


def _check_all_wrote(folder: Path) -> None:
    named = {entry.relative_path for entry in FileSystemReader(folder).read_metadata().storage_data.values()}
    if missing := sorted(name for name in named if not (folder / name).exists()):
        raise ConfigError(
            f"{folder} lacks {missing[0]} ({len(missing)} of {len(named)} files), which another rank wrote elsewhere; "
            "output must be a file system that all nodes share"
        )


def _remove(checkpoint: Path) -> None:
    """Under another name first: what is half removed is no checkpoint."""
    doomed = checkpoint.with_name(f".{checkpoint.name}.old")
    checkpoint.rename(doomed)
    shutil.rmtree(doomed)


def list_checkpoints(output: Path) -> list[Path]:
    """The complete ones, oldest first."""
    return sorted((path.parent for path in (output / FOLDER).glob(f"step-*/{RUN}")), key=lambda path: path.name)


def read_run_state(checkpoint: Path) -> RunState:
    """Raises ConfigError for what this version cannot read."""
    try:
        return RunState.model_validate_json((checkpoint / RUN).read_bytes())
    except (OSError, ValidationError) as error:
        problem = first_problem(error) if isinstance(error, ValidationError) else str(error)
        raise ConfigError(
            f"{checkpoint / RUN}: not the state of a run of format 2 ({problem}); remove this checkpoint to go on from "
            "an older one, or use the version of packline that wrote it"
        ) from error


def check_same_run(checkpoint: Path, found: RunState, expected: RunState) -> None:
    """Raises ConfigError for a checkpoint of other data, of another model or of other master weights."""
    named = {
        "data": "other data: the data sets with weights and generations, `seed` and `shuffle_shards` must be the run's",
        "packs_per_step": "another packs_per_step",
        "loss": "another loss: `loss_policy` or `loss_normalization`",
        "architecture": "another model",
        "master_dtype": "another master_dtype",
    }
    for name, what in named.items():
        seen, wanted = getattr(found, name), getattr(expected, name)
        if seen != wanted:
            raise ConfigError(
                f"{checkpoint} is of {what} (it has {seen}, this config gives {wanted}); "
                "resume with the config of that run, or start anew with --set output=FOLDER"
            )


def changed_settings(found: RunState, config: Mapping[str, Any]) -> list[str]:
    """`key: before -> now` of what the config has changed since then."""
    return [
        f"{key}: {json.dumps(found.config.get(key))} -> {json.dumps(value)}"
        for key, value in config.items()
        if key != "output" and found.config.get(key) != value
    ]


def load_checkpoint(checkpoint: Path, model: nn.Module, optimizer: Optimizer) -> None:
    """Into the model and the optimizer in place; every rank must call it. The number of ranks may be another.

    Learning rate, weight decay and betas stay those of the optimizer, that is, of the config.
    """
    settings = [{name: group[name] for name in SETTINGS} for group in optimizer.param_groups]
    tensors = _tensors(model, optimizer)
    load(tensors, checkpoint_id=checkpoint)
    set_state_dict(model, optimizer, model_state_dict=tensors["model"], optim_state_dict=tensors["optimizer"])
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)


def load_model(checkpoint: Path, model: nn.Module) -> None:
    """Its weights alone, as load_checkpoint does."""
    tensors = {"model": get_model_state_dict(model)}
    load(tensors, checkpoint_id=checkpoint)
    set_model_state_dict(model, tensors["model"])


def _tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    model_state, optimizer_state = get_state_dict(model, optimizer)
    return {"model": model_state, "optimizer": optimizer_state}


def _sync(folder: Path) -> None:
    """Onto the disk, before the folder gets its name."""
    for path in (*folder.iterdir(), folder):
        sync_path(path)
