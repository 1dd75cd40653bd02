"""The memory that tensors take, counted operation by operation; also of tensors that are fake, and so take none."""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

SMALL = 2**16
"""Bytes of which a peak is not looked for anew."""


class LiveBytes(TorchDispatchMode):
    """Counts what operations make while it is on, as long as it is alive. What a kernel takes inside is not seen."""

    def __init__(self) -> None:
        super().__init__()
        self._storages: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        self.peak = 0

    @property
    def now(self) -> int:
        """Sizes are looked up anew, as FSDP frees storages by making them empty."""
        return sum(storage.nbytes() for storage in self._storages)

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        out = function(*arguments, **(keywords or {}))
        tensors = [
            tensor for tensor in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(tensor, Tensor)
        ]
        storages = {
            (tensor.to_local() if isinstance(tensor, DTensor) else tensor).untyped_storage() for tensor in tensors
        }
        new = [storage for storage in storages if storage not in self._storages]
        self._storages.update(new)
        if sum(storage.nbytes() for storage in new) > SMALL:
            self.peak = max(self.peak, self.now)
        return out
