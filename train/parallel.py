"""Ranks, and what they do to a model from outside: its blocks are checkpointed, compiled and sharded (FSDP2)."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard

from schemas.errors import ConfigError
from train.config import TrainConfig
from train.model import Decoder
from train.recompute import recompute_activations
from train.rendezvous import join_start

BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
"""gloo sums counts on the CPU, so that no rank waits for its GPU to learn them, and what `cpu_offload` keeps there."""


@dataclass(frozen=True, slots=True)
class World:
    """This rank among all ranks."""

    rank: int
    ranks: int
    device: torch.device

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sums over all ranks, in float64; every rank must call it, with as many values."""
        totals = torch.tensor(values, dtype=torch.float64)
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
    backend = BACKENDS[device.type]
    if "RANK" in os.environ:
        store, rank, ranks = join_start()
        dist.init_process_group(backend, store=store, rank=rank, world_size=ranks)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    yield World(dist.get_rank(), dist.get_world_size(), device)
    dist.destroy_process_group()


def end_process(code: int) -> NoReturn:
    """End a process that had joined a world. The interpreter's own way out destroys threads of gloo that still run, and
    aborts a process whose work is done (seen with torch 2.13 in up to half of the runs of four short-lived ranks)."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _pick_device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def use_deterministic_kernels(wanted: bool) -> None:
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    torch.use_deterministic_algorithms(wanted)


def make_mesh(shard_ranks: int | None, world: World) -> DeviceMesh:
    """[shard]: all ranks share one copy of the model (FSDP). Or [replicate, shard]: so many neighbours share one, and
    the copies are replicas (HSDP).

    Every rank must call it. Raises ConfigError, on all ranks, where their number is no multiple of `shard_ranks`.
    """
    sharing = shard_ranks or world.ranks
    if world.ranks % sharing:
        raise ConfigError(
            f"{world.ranks} ranks are no multiple of shard_ranks {sharing}; start {sharing} ranks or a multiple, or "
            "let all ranks share one copy of the model with --set shard_ranks=null"
        )
    if sharing == world.ranks:
        return init_device_mesh(world.device.type, (sharing,), mesh_dim_names=("shard",))
    shape = world.ranks // sharing, sharing
    return init_device_mesh(world.device.type, shape, mesh_dim_names=("replicate", "shard"))


def describe_ranks(config: TrainConfig, world: World) -> str:
    """As in `16 x cuda`, or in `2 x 8 x cuda` for two copies of the model that eight ranks each share."""
    sharing = config.shard_ranks or world.ranks
    copies = f"{world.ranks // sharing} x " if sharing < world.ranks else ""
    return f"{copies}{sharing} x {world.device.type}{', offloaded to the host' if config.cpu_offload else ''}"


def dtypes_of(config: TrainConfig) -> tuple[torch.dtype, torch.dtype]:
    """(of the computation, of weights and optimizer state)"""
    compute_dtype: torch.dtype = getattr(torch, config.dtype)
    if config.master_dtype is None:
        return compute_dtype, torch.promote_types(compute_dtype, torch.float32)
    master_dtype: torch.dtype = getattr(torch, config.master_dtype)
    return compute_dtype, master_dtype


def parallelize(model: Decoder, config: TrainConfig, mesh: DeviceMesh) -> None:
    """In place, and parameters keep their names. Checkpointing is compiled along, hooks of FSDP are not."""
    for block in model.layers:
        recompute_activations(block, config.activation_checkpointing)
        if config.compile:
            block.forward = torch.compile(block.forward, fullgraph=True)
    if config.compile:
        model.softmax = torch.compile(model.softmax, fullgraph=True, dynamic=True)  # chunks differ in length
    model.stays_whole = mesh.shape[-1] == 1 and not saves_memory(config)
    # Pinned memory is what copies to and from a GPU are fast with; without one torch cannot pin any.
    offload = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda") if config.cpu_offload else OffloadPolicy()
    shard_model(model, mesh, dtypes_of(config)[0], offload)


def saves_memory(config: TrainConfig) -> bool:
    """Whether a setting says that memory counts more than time."""
    in_bfloat16 = dtypes_of(config)[1] is torch.bfloat16
    return config.cpu_offload or in_bfloat16 or config.activation_checkpointing == "full"


def shard_model(model: Decoder, mesh: DeviceMesh, compute_dtype: torch.dtype, offload: OffloadPolicy) -> None:
    """Shard in place. Gradients are summed over the ranks, never averaged: the loss is divided by a global count.

    In bfloat16 only the computation is done: gradients are summed over the ranks in float32. Inputs are not cast, as
    the weights of losses stay exact. A block is whole only while it runs, and so are embeddings that are not the
    output's weights too; the final norm and the output stay whole from the forward to the backward pass.

    Where a rank shares its copy with no other, FSDP does nothing but copy: there a model may stay whole through a step.
    """
    reduce_dtype = torch.promote_types(compute_dtype, torch.float32)
    policy = MixedPrecisionPolicy(compute_dtype, reduce_dtype, cast_forward_inputs=False)
    embeddings = [] if model.lm_head is None else [model.embed_tokens]
    for module in (*embeddings, *model.layers, model):
        sharded = fully_shard(
            module,
            mesh=mesh,
            mp_policy=policy,
            offload_policy=offload,
            reshard_after_forward=False if model.stays_whole else None,
        )
        assert isinstance(sharded, FSDPModule)
        if mesh.size() > 1:  # alone, torch would divide by 1
            sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)  # gloo has no other reduction with a factor
        sharded.set_unshard_in_backward(module not in embeddings)  # their gradient does not need them


def sum_over_replicas(model: Decoder, wanted: bool) -> None:
    """Whether the backward passes from now on end with the sum over the replicas of the model. Without it a rank adds
    what its own replica's ranks give to what it keeps of the step; the next pass with it sums all of that. A model that
    stays whole does so until then, and its gradients, which are added up in the dtype of the sums, do too."""
    assert isinstance(model, FSDPModule)
    if model.stays_whole:
        model.set_requires_gradient_sync(wanted)
        model.set_reshard_after_backward(wanted)
    else:
        model.set_requires_all_reduce(wanted)


def reshard(model: nn.Module) -> None:
    """After a forward pass without a backward pass, which would do it."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
