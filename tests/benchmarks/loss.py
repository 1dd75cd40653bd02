"""The loss of a large vocabulary three ways: full logits, torch's chunked one, and ours at several chunk sizes.

Forward and backward on one core: seconds of processor time (others may share the machine) and the memory on top. The
error is that of the gradient of the weight, relative to its norm, against full logits in float32. Run from the
checkout: `python tests/benchmarks/loss.py`.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import train.loss
from train.loss import Softmax, linear_cross_entropy, scaled_softmax

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def full_logits(hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
    losses = functional.cross_entropy(functional.linear(hidden, weight).float(), targets, reduction="none")
    return losses @ scale


def torch_chunked(**options: Any) -> Loss:
    """With reduction="none", which is what weights need. Its backward makes the logits a second time."""

    def loss(hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
        chosen = torch.nn.LinearCrossEntropyOptions(**options)
        losses = functional.linear_cross_entropy(hidden, weight, targets, reduction="none", options=chosen)
        return losses.float() @ scale

    return loss


def torch_chunked_sum(**options: Any) -> Loss:
    """With reduction="sum": equal to the others where all weights are equal, as they are here."""

    def loss(hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
        chosen = torch.nn.LinearCrossEntropyOptions(**options)
        total = functional.linear_cross_entropy(hidden, weight, targets, reduction="sum", options=chosen)
        return total * scale[0]

    return loss


def our_chunked(chunk: int, softmax: Softmax = scaled_softmax) -> Loss:
    def loss(hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
        train.loss.CHUNK_ELEMENTS["cpu"] = chunk * len(weight)
        return linear_cross_entropy(hidden, weight, targets, scale, softmax)[0]

    return loss


WAYS: dict[str, Loss] = {
    "full logits": full_logits,
    "torch, sum": torch_chunked_sum(),
    "torch, none": torch_chunked(),
    "torch, none, accurate": torch_chunked(acc_policy="accurate"),
    "torch, sum, 512 places": torch_chunked_sum(batch_chunk_size=512, chunking_method=None),
    "torch, none, 512 places": torch_chunked(batch_chunk_size=512, chunking_method=None),
    **{f"ours, {chunk} places": our_chunked(chunk) for chunk in (128, 256, 512, 1024)},
    "ours, 512 places, compiled": our_chunked(512, torch.compile(scaled_softmax, fullgraph=True, dynamic=True)),
}


def resident_peak(reset: bool = False) -> int:
    """Bytes, the most since the last reset (Linux alone)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    name = "VmRSS" if reset else "VmHWM"
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith(name))


def measure(loss: Loss, inputs: tuple[Tensor, ...]) -> tuple[float, float, Tensor]:
    """(seconds, GiB on top of what was there before, gradient of the weight)."""
    hidden, weight, targets, scale = inputs
    gc.collect()
    before = resident_peak(reset=True)
    began = time.process_time()
    loss(hidden, weight, targets, scale).backward()  # type: ignore[no-untyped-call]
    seconds = time.process_time() - began
    peak = (resident_peak() - before) / 2**30
    assert weight.grad is not None
    gradient, weight.grad, hidden.grad = weight.grad, None, None
    return seconds, peak, gradient


def make_inputs(places: int, hidden_size: int, vocab_size: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    hidden = torch.randn(places, hidden_size).to(dtype).requires_grad_()
    weight = (torch.randn(vocab_size, hidden_size) * 0.02).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(vocab_size, (places,)), torch.full((places,), 1 / places)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--places", type=int, default=2048)
    parser.add_argument("--hidden-size", type=int, default=896)
    parser.add_argument("--vocab-size", type=int, default=151_936)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sizes = (arguments.places, arguments.hidden_size, arguments.vocab_size)
    inputs = make_inputs(*sizes, getattr(torch, arguments.dtype))
    exact = tuple(part.detach().float().requires_grad_() if part.is_floating_point() else part for part in inputs)
    expected = measure(full_logits, exact)[2]
    seconds: dict[str, list[float]] = {way: [] for way in arguments.ways}
    peaks, errors = {}, {}
    for _ in range(arguments.repeats):
        for way in arguments.ways:
            spent, peaks[way], gradient = measure(WAYS[way], inputs)
            seconds[way].append(spent)
            errors[way] = ((gradient.float() - expected).norm() / expected.norm()).item()
    print("{} places, hidden {}, vocabulary {}:".format(*sizes), arguments.dtype)
    for way in arguments.ways:
        print(f"  {way:<28} {statistics.median(seconds[way]):7.2f} s  {peaks[way]:6.2f} GiB  error {errors[way]:.1e}")


if __name__ == "__main__":
    main()
