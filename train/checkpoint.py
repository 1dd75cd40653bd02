"""Plain saving of the weights: OUTPUT/weights/ holds model.safetensors and model.json, or does not exist."""

import json
import os
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

WEIGHTS = "weights"


def save_weights(model: nn.Module, facts: dict[str, Any], output: Path, rank: int) -> None:
    """Gather the full weights on rank 0, in their own dtype, and write them there; every rank must call it."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(model, options=options)
    if rank == 0:
        _write(state, facts, output)
    dist.barrier()


def _write(state: dict[str, Any], facts: dict[str, Any], output: Path) -> None:
    """The folder gets its name when it is complete."""
    temporary = output / f".{WEIGHTS}.{os.getpid()}.tmp"
    temporary.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, temporary / "model.safetensors")
    (temporary / "model.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    temporary.rename(output / WEIGHTS)
