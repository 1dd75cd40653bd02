"""Checkpoints that are written while the run goes on, from a copy in the memory of the host.

A thread of each rank writes. The threads agree by a process group of their own, so that nothing that they send each
other meets what the run sends, and the one of rank 0 gives the checkpoint its name as soon as it is complete.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.optim import Optimizer

from train.checkpoint import RunState, tensors_of, write_checkpoint


class BackgroundWriter:
    """Writes one checkpoint at a time. All ranks must call `start` and `wait`, in the same order."""

    def __init__(self, device: torch.device) -> None:
        on_cuda = device.type == "cuda"
        self._stager = DefaultStager(  # keeps the memory of its copy for the next one
            StagingOptions(
                use_pinned_memory=on_cuda,
                use_shared_memory=False,
                use_async_staging=False,
                use_non_blocking_copy=on_cuda,
            )
        )
        self._thread = ThreadPoolExecutor(1, "checkpoint", _compute_apart, (device,))
        self._group: dist.ProcessGroup | None = None
        self._writing: Future[Path | None] | None = None

    def start(self, output: Path, state: RunState, model: nn.Module, optimizer: Optimizer, keep: int) -> None:
        """As write_checkpoint, of the tensors as they are now; returns when they are copied."""
        assert self._writing is None, "two checkpoints in flight would share one copy"
        if self._group is None:
            self._group = dist.new_group(backend="gloo")
        copy = self._stager.stage(tensors_of(model, optimizer))
        assert isinstance(copy, dict)
        self._writing = self._thread.submit(write_checkpoint, output, state, copy, keep, self._group)

    @property
    def is_writing(self) -> bool:
        """Whether one was started that neither `wait` nor `collect` has given; it may be complete by now."""
        return self._writing is not None

    @property
    def failed(self) -> bool:
        """Whether this rank knows already that `wait` will raise, which it does on all of them."""
        return self._writing is not None and self._writing.done() and self._writing.exception() is not None

    def collect(self) -> Path | None:
        """The checkpoint that has become complete since it was asked for."""
        if self._writing is None or not self._writing.done() or self.failed:
            return None
        return self.wait()

    def wait(self) -> Path | None:
        """The checkpoint in flight, when it is complete. Raises what write_checkpoint raises."""
        writing, self._writing = self._writing, None
        return writing.result() if writing else None

    def close(self) -> None:
        """When what is in flight is complete, or has failed: to be known, it must have been waited for before."""
        self._thread.shutdown()
        self._stager.close()


def _compute_apart(device: torch.device) -> None:
    """A thread begins on the first device, and on the stream that the run computes on, for which DCP would wait."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.cuda.set_stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
