"""What goes over the wire in a step of two nodes of eight ranks, by placement: counted, with no wire at all.

One process is rank 0 of 16; torch's fake process group takes its collectives and does nothing, so only their numbers
and sizes mean anything. Sizes are of what the rank gives to a collective, or gets where that is more: with the usual
rings about as much leaves and enters it.
Run from the checkout: `python tests/benchmarks/placement.py`.
"""

from collections import Counter
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from train.architecture import PRESETS
from train.attention import isolate
from train.config import TrainConfig
from train.loss import Trained
from train.model import Decoder
from train.parallel import World, sum_over_replicas
from train.run import make_model

RANKS, NODE, MICROBATCHES, SEQ_LEN = 16, 8, 4, 64
SHAPE = PRESETS["small"].model_copy(update={"vocab_size": 5000})
KINDS = {"_allgather_base_": "all-gather", "_reduce_scatter_base_": "reduce-scatter", "allreduce_": "all-reduce"}
PLACEMENTS = {
    "FSDP": (None, True),
    "HSDP, replicas summed after each micro-batch": (NODE, False),
    "HSDP": (NODE, True),
    "plain replicas": (1, True),
}


class Wire(TorchDispatchMode):
    """Calls and bytes, by collective and number of ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[tuple[str, int]] = Counter()
        self.bytes: Counter[tuple[str, int]] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        if function.namespace == "c10d":
            leaves = tree_leaves(arguments)
            boxed = next(leaf for leaf in leaves if isinstance(leaf, torch.ScriptObject))
            place = KINDS[function._opname], dist.ProcessGroup.unbox(boxed).size()
            self.calls[place] += 1
            self.bytes[place] += max(leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor))
        return function(*arguments, **(keywords or {}))


def step(model: Decoder, once: bool) -> Wire:
    places = torch.arange(SEQ_LEN)[None]
    isolation = isolate(torch.zeros_like(places), torch.tensor([0, SEQ_LEN], dtype=torch.int32), "varlen")
    weights = torch.full((SEQ_LEN - 1,), 1.0, dtype=torch.float64)
    with Wire() as wire:
        for number in range(1, MICROBATCHES + 1):
            sum_over_replicas(model, number == MICROBATCHES or not once)
            loss, _ = model(places, places, isolation, Trained(places[0, :-1], places[0, 1:], weights))
            loss.backward()  # type: ignore[no-untyped-call]
    return wire


def main() -> None:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=RANKS)
    world = World(rank=0, ranks=RANKS, device=torch.device("cpu"))
    for name, (shard_ranks, once) in PLACEMENTS.items():
        values = {"output": "out", "datasets": [{"path": "none"}], "model": "small", "packs_per_step": 64, "steps": 1}
        config = TrainConfig.model_validate({**values, "dtype": "bfloat16", "shard_ranks": shard_ranks})
        model = make_model(config, SHAPE, world)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        wire = step(model, once)
        print(f"{name}: {parameters:,} parameters, {MICROBATCHES} micro-batches")
        for (kind, ranks), calls in sorted(wire.calls.items()):
            per_parameter = wire.bytes[kind, ranks] / parameters
            print(f"  {kind} of {ranks} ranks: {calls}, {per_parameter:.2f} bytes a parameter")


if __name__ == "__main__":
    main()
