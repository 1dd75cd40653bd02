"""The peak memory of a training step at long seq_len, computed without a GPU: the trainer's own step, sharded by FSDP,
checkpointed and with AdamW's state, runs over fake tensors, and what is alive is counted operation by operation.

    python tests/benchmarks/long_context.py [--shapes Llama-3.2-1B] [--seq-lens 131072] [--modes full]

One row of one document, of which every token is trained, in bfloat16 with float32 masters, not compiled. Not counted:
the CUDA context, NCCL's buffers, the allocator's fragments, and what kernels take inside but for the backward pass of
attention.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from live_bytes import LiveBytes

import train.attention
import train.loss
from train.architecture import Architecture
from train.attention import isolate
from train.config import TrainConfig
from train.loss import Trained
from train.model import Decoder
from train.optim import make_optimizer, update
from train.parallel import parallelize
from train.varlen import causal_varlen

GIB = 2**30
LLAMA: dict[str, Any] = {"num_key_value_heads": 8, "vocab_size": 128_256}
SHAPES = {
    "Qwen2.5-0.5B": Architecture(
        model_type="qwen2", hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
        num_key_value_heads=2, vocab_size=151_936, tie_word_embeddings=True,
    ),
    "Llama-3.2-1B": Architecture(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32, **LLAMA,
        tie_word_embeddings=True,
    ),
    "Llama-3.2-3B": Architecture(
        hidden_size=3072, intermediate_size=8192, num_hidden_layers=28, num_attention_heads=24, **LLAMA,
        tie_word_embeddings=True,
    ),
    "Llama-3.1-8B": Architecture(
        hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32, num_attention_heads=32, **LLAMA
    ),
}  # fmt: skip
RANKS = {"Llama-3.1-8B": 8}
"""One otherwise."""


class StepBytes(LiveBytes):
    """With what FlashAttention's backward pass takes inside: float32 for queries, keys and values for all heads."""

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        out = super().__torch_dispatch__(function, types, arguments, keywords)
        if "_varlen_attn_backward" in str(function):
            query, key = arguments[1], arguments[2]
            grouped = query.shape[1] != key.shape[1]
            self.peak = max(self.peak, self.now + query.numel() * (4 + 2 * query.element_size() * grouped))
        return out


class FusedNorm(torch.autograd.Function):
    """The memory of RMSNorm's kernel on a GPU, which keeps its input and one number a row. A CPU has none, and goes
    through copies in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, x.new_empty(x.shape[:-1], dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight)


def peak_of_step(shape: Architecture, seq_len: int, mode: str, ranks: int) -> int:
    """Bytes on one rank."""
    values = {"output": "out", "datasets": [{"path": "data"}], "model": shape.model_dump(), "packs_per_step": ranks}
    config = TrainConfig.model_validate({**values, "steps": 1, "dtype": "bfloat16", "activation_checkpointing": mode})
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    with torch.device("meta"):
        model = Decoder(shape)
    parallelize(model, config, init_device_mesh("cpu", (ranks,)))
    with FakeTensorMode(allow_non_fake_inputs=True), StepBytes() as live:
        model.to_empty(device="cpu")
        optimizer = make_optimizer(model, config)
        live.peak = 0  # the optimizer's state is there, so each step is like the first
        loss_of_a_row(model, seq_len).backward()  # type: ignore[no-untyped-call]
        update(optimizer, 1e-4)
    dist.destroy_process_group()
    return live.peak


def loss_of_a_row(model: Decoder, seq_len: int) -> Tensor:
    ids = torch.zeros(1, seq_len, dtype=torch.int64)
    places = torch.zeros(seq_len, dtype=torch.int64)
    trained = Trained(places, places, torch.zeros(seq_len, dtype=torch.float64))
    isolation = isolate(ids, torch.zeros(2, dtype=torch.int32), "varlen")
    loss: Tensor = model(ids, ids, isolation, trained)[0]
    return loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--seq-lens", type=int, nargs="*", default=[8192, 32_768, 131_072])
    parser.add_argument("--modes", nargs="*", default=["none", "selective", "full"])
    arguments = parser.parse_args()
    # what runs on a GPU
    train.attention.document_by_document = causal_varlen
    train.loss.CHUNK_ELEMENTS["cpu"] = train.loss.CHUNK_ELEMENTS["gpu"]
    torch.nn.functional.rms_norm = lambda x, shape, weight, eps: FusedNorm.apply(x, weight)  # type: ignore[assignment]
    print("| shape | seq_len |" + "".join(f" {mode} |" for mode in arguments.modes))
    print("|---|---:|" + "---:|" * len(arguments.modes))
    for name in arguments.shapes:
        ranks = RANKS.get(name, 1)
        shown = f"{name}, on each of {ranks}" if ranks > 1 else name
        for seq_len in arguments.seq_lens:
            peaks = [peak_of_step(SHAPES[name], seq_len, mode, ranks) / GIB for mode in arguments.modes]
            print(f"| {shown} | {seq_len:,} |" + "".join(f" {peak:.1f} |" for peak in peaks), flush=True)


if __name__ == "__main__":
    main()
