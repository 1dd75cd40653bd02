"""Ranks, and what they do to a model from outside: its parameters are sharded block by block (FSDP2)."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from train.model import Decoder


@dataclass(frozen=True, slots=True)
class World:
    """This rank among all ranks."""

    rank: int
    ranks: int
    device: torch.device
    mesh: DeviceMesh

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sums over all ranks, in float64; every rank must call it, with as many values."""
        totals = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(totals)
        sums: list[float] = totals.tolist()
        return sums

    def say(self, line: str) -> None:
        """Print a line, once and not on every rank."""
        if self.rank == 0:
            print(line, flush=True)


@contextmanager
def join_world() -> Iterator[World]:
    """Join the ranks that torchrun started, or be a world of one. Returns when all ranks are there.

    After an error the process group is left as it is: the process ends, and torchrun ends the others.
    """
    device = _pick_device()
    backend = "nccl" if device.type == "cuda" else "gloo"
    if "RANK" in os.environ:
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    ranks = dist.get_world_size()
    yield World(dist.get_rank(), ranks, device, init_device_mesh(device.type, (ranks,)))
    dist.destroy_process_group()


def _pick_device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def shard_model(model: Decoder, mesh: DeviceMesh, compute_dtype: torch.dtype) -> None:
    """Shard in place. Gradients are summed over the ranks, never averaged: the loss is divided by a global count.

    With bfloat16 the parameters and the sums of gradients stay in float32, only the computation is in bfloat16.
    """
    policy = MixedPrecisionPolicy()
    if compute_dtype is torch.bfloat16:
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for module in (*model.layers, model):
        sharded = fully_shard(module, mesh=mesh, mp_policy=policy)
        assert isinstance(sharded, FSDPModule)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)  # gloo has no other reduction with a factor
