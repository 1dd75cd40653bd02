"""Where the time of a step goes: what torch's profiler recorded, by kind of work."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

KINDS: tuple[tuple[str, str], ...] = (
    ("attention", r"flash|fmha|attention|flex|triton_tem_fused"),
    ("element-wise", r"^triton_"),  # fused by torch.compile; their names list all that was fused, copies too
    ("products", r"gemm|gemv|cublas|cutlass|nvjet|xmma|wgmma|splitk|aten::(add|b|baddb)?mm"),
    ("communication", r"nccl|all_gather|reduce_scatter|all_reduce|c10d"),
    ("copies", r"memcpy|memset|copy|chunk_cat|::to\b|fill|zero_|::cat\b|CatArray"),
)
"""By the name of a kernel on a GPU, or of an operation on a CPU. The first that is found holds; the rest is
element-wise work, with norms and reductions."""

REGIONS: tuple[tuple[str, str], ...] = (
    ("optimizer", r"^Optimizer\.|^part: clip$"),
    ("loss", r"^part: loss$"),
)
"""By what the operation is part of. Products are kept apart from the rest of the loss."""


@dataclass(frozen=True)
class Piece:
    """A kernel, or on a CPU an operation without those that it calls."""

    name: str
    within: tuple[str, ...]  # the operations and parts that it belongs to
    seconds: float


def kind_of(piece: Piece) -> str:
    own = look_up(piece.name, KINDS) or "element-wise"
    region = next((region for name in piece.within if (region := look_up(name, REGIONS))), None)
    if region == "loss" and own == "products":
        return "loss, products"
    return region or own


@cache  # the same few names come by the hundred thousand
def look_up(name: str, table: tuple[tuple[str, str], ...]) -> str | None:
    return next((kind for kind, pattern in table if re.search(pattern, name, re.IGNORECASE)), None)


def shares(pieces: Iterable[Piece], whole: float) -> dict[str, float]:
    """Of `whole` seconds; what is left is idle, or on a CPU not in any operation."""
    sums: dict[str, float] = {}
    for piece in pieces:
        sums[kind_of(piece)] = sums.get(kind_of(piece), 0.0) + piece.seconds / whole
    return dict(sorted(sums.items(), key=lambda item: -item[1])) | {"idle": 1 - sum(sums.values())}


def longest(pieces: Iterable[Piece], count: int) -> list[tuple[str, str, float]]:
    """(name, kind, seconds) of the names that took most."""
    sums: dict[tuple[str, str], float] = {}
    for piece in pieces:
        key = (piece.name[:120], kind_of(piece))
        sums[key] = sums.get(key, 0.0) + piece.seconds
    return [(*key, seconds) for key, seconds in sorted(sums.items(), key=lambda item: -item[1])[:count]]


def profile_step(step: Any, device: torch.device) -> dict[str, Any]:
    """Run `step` once, recorded: shares of the time by kind, and the kernels that took most of it."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities) as recorded:
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    events = recorded.events()
    if device.type != "cuda":
        pieces = cpu_pieces(events)
        return {"shares": shares(pieces, sum(piece.seconds for piece in pieces)), "longest": longest(pieces, 12)}
    pieces, (busy, whole) = gpu_pieces(events), busy_seconds(events)
    told = shares(pieces, whole) | {"idle": 1 - busy / whole}  # streams overlap: all may be more than 1
    return {"shares": told, "seconds": whole, "longest": longest(pieces, 12)}


def cpu_pieces(events: Sequence[Any]) -> list[Piece]:
    return [
        Piece(event.name, ancestors(event), event.self_cpu_time_total / 1e6)
        for event in events
        if event.device_type == DeviceType.CPU and not event.name.startswith(("ProfilerStep", "part: "))
    ]


def gpu_pieces(events: Sequence[Any]) -> list[Piece]:
    """A kernel belongs to the operation that launched it; those whose operation is not known belong to none."""
    linked = [
        Piece(kernel.name, ancestors(event), kernel.duration / 1e6)
        for event in events
        if event.device_type == DeviceType.CPU
        for kernel in event.kernels
    ]
    left: dict[str, float] = {}
    for event in kernels_of(events):
        left[event.name] = left.get(event.name, 0.0) + (event.time_range.end - event.time_range.start) / 1e6
    for piece in linked:
        left[piece.name] = left.get(piece.name, 0.0) - piece.seconds
    return linked + [Piece(name, (), seconds) for name, seconds in left.items() if seconds > 1e-6]


def kernels_of(events: Sequence[Any]) -> list[Any]:
    """What ran on the device, without the ranges that annotations have there."""
    annotations = {event.name for event in events if event.device_type == DeviceType.CPU}
    return [event for event in events if event.device_type == DeviceType.CUDA and event.name not in annotations]


def busy_seconds(events: Sequence[Any]) -> tuple[float, float]:
    """(in which anything runs on the device, from its first kernel's start to its last one's end)"""
    spans = sorted((event.time_range.start, event.time_range.end) for event in kernels_of(events))
    assert spans, "nothing ran on the device"
    busy, end = 0.0, spans[0][0]
    for start, stop in spans:
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return busy / 1e6, (end - spans[0][0]) / 1e6


def ancestors(event: Any) -> tuple[str, ...]:
    names = [event.name]
    while event.cpu_parent is not None:
        event = event.cpu_parent
        names.append(event.name)
    return tuple(names)
