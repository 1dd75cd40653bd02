"""Seconds and peak memory of steps, of one side or of several in turn."""

import gc
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

import torch

from train.architecture import Architecture
from train.batch import Entry, weigh_targets
from train.flops import count_pairs, device_peak_flops, step_flops
from train.metrics import peak_memory


class Side(Protocol):
    name: str
    rows: int

    def step(self, entries: Sequence[Entry]) -> float: ...


@dataclass
class Measured:
    """Of one side. The first `warm_up` steps are in `losses` alone."""

    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    first_seconds: float = 0.0
    peak_bytes: int = 0


def take_turns(
    sides: Sequence[Side], packs: Iterator[Entry], packs_per_step: int, steps: int, warm_up: int, device: torch.device
) -> list[Measured]:
    """All sides take the same packs, and take turns to begin."""
    measured = [Measured() for _ in sides]
    for number in range(warm_up + steps):
        entries = list(islice(packs, packs_per_step))
        order = list(zip(sides, measured, strict=True))
        for side, result in order if number % 2 else reversed(order):
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            synchronize(device)
            began = time.perf_counter()
            result.losses.append(side.step(entries))
            synchronize(device)
            spent = time.perf_counter() - began
            result.peak_bytes = max(result.peak_bytes, peak_memory(device))
            if number == 0:
                result.first_seconds = spent
            if number >= warm_up:
                result.seconds.append(spent)
    return measured


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def allocated(device: torch.device) -> int:
    """Bytes that are in use now, once what nobody needs is gone."""
    gc.collect()
    if device.type != "cuda":
        return 0
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated(device)


def describe(
    side: Side, result: Measured, shape: Architecture, entries: Sequence[Entry], others: int, device: torch.device
) -> dict[str, object]:
    """What is written of a side. entries: a step's; the others differ little. others: bytes that are not the side's."""
    seconds = statistics.median(result.seconds)
    tokens = sum(len(entry.pack.input_ids) for entry in entries)
    trained = sum(count_trained(entry) for entry in entries)
    pairs = sum(count_pairs(entry.pack.doc_lengths.tolist()) for entry in entries)
    peak = device_peak_flops(device)
    flops = step_flops(shape, tokens=tokens, trained_tokens=trained, pairs=pairs)
    return {
        "side": side.name,
        "rows": side.rows,
        "seconds": result.seconds,
        "first_seconds": result.first_seconds,
        "tokens_per_second": tokens / seconds,
        "trained_tokens_per_second": trained / seconds,
        "mfu": peak and flops / seconds / peak,
        "peak_gib": (result.peak_bytes - others) / 2**30,
        "losses": result.losses,
    }


def count_trained(entry: Entry) -> int:
    return int((weigh_targets(entry.pack, entry.table) > 0).sum())
