"""Checkpoints: what a run needs to go on as if it had never stopped, on any number of ranks.

    OUTPUT/checkpoints/step-00000100/    run.json, and the sharded state as torch.distributed.checkpoint writes it

A folder has this name only when every rank has written its part; until then it is .step-00000100.tmp.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
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

Result = TypeVar("Result")

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


class CheckpointError(OSError):
    """A checkpoint that could not be written."""


def write_checkpoint(
    output: Path, state: RunState, tensors: dict[str, Any], keep: int, group: dist.ProcessGroup | None = None
) -> Path | None:
    """Returns when the checkpoint is complete; older ones than the newest `keep` go. Every rank must call it, with its
    own share of the run's tensors; `group` is what the ranks agree by, None is the group of the run.

    A step that has one already, as after a resume, is not saved again: None. Raises, on all ranks, CheckpointError
    where one could not write, and ConfigError where ranks do not write into the same folder.
    """
    final = output / FOLDER / f"step-{state.step:08d}"
    temporary = final.with_name(f".{final.name}.tmp")
    try:
        if not _on_rank_0(lambda: _begin(temporary, final), group):
            return None
        save(tensors, checkpoint_id=temporary, process_group=group)
        _on_rank_0(lambda: _finish(temporary, final, state, keep), group)
    except (OSError, CheckpointException) as error:
        raise CheckpointError(
            f"the checkpoint of step {state.step} could not be written: {_cause(error)}; when there is room and "
            "permission, go on from the one before with --resume"
        ) from error
    return final


def _begin(temporary: Path, final: Path) -> bool:
    """Whether there is something to write, into a new folder."""
    if (final / RUN).exists():
        return False
    _remove_remnants(final.parent)
    temporary.mkdir(parents=True)
    return True


def _finish(temporary: Path, final: Path, state: RunState, keep: int) -> None:
    """What all ranks have written becomes a checkpoint."""
    _check_all_wrote(temporary)
    (temporary / RUN).write_text(state.model_dump_json(indent=1) + "\n", encoding="utf-8")
    _sync(temporary)
    temporary.rename(final)
    for old in list_checkpoints(final.parents[1])[:-keep]:
        _remove(old)


def _on_rank_0(action: Callable[[], Result], group: dist.ProcessGroup | None) -> Result:
    """What it returns there, on all ranks; or what it raises."""
    told: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            told[0] = action()
        except Exception as error:
            told[1] = error
    dist.broadcast_object_list(told, src=0, group=group)
    result, failure = told
    if failure is not None:
        raise failure
    return cast(Result, result)


def _cause(error: OSError | CheckpointException) -> str:
    if isinstance(error, OSError):
        return str(error)
    rank, (failure, _) = min(error.failures.items())
    return f"on rank {rank} {type(failure).__name__}: {failure}"


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
    tensors = tensors_of(model, optimizer)
    load(tensors, checkpoint_id=checkpoint)
    set_state_dict(model, optimizer, model_state_dict=tensors["model"], optim_state_dict=tensors["optimizer"])
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)


def load_model(checkpoint: Path, model: nn.Module) -> None:
    """Its weights alone, as load_checkpoint does."""
    tensors = {"model": get_model_state_dict(model)}
    load(tensors, checkpoint_id=checkpoint)
    set_model_state_dict(model, tensors["model"])


def tensors_of(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """This rank's share of what a checkpoint has, as it is now: no copies."""
    model_state, optimizer_state = get_state_dict(model, optimizer)
    return {"model": model_state, "optimizer": optimizer_state}


def _sync(folder: Path) -> None:
    """Onto the disk, before the folder gets its name."""
    for path in (*folder.iterdir(), folder):
        sync_path(path)
