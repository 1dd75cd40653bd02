"""Seconds that a run stands still for a checkpoint: written at once, by a thread and by a process beside the run.

One rank on a CPU. In each round each way saves the same model and its AdamW state (12 bytes a parameter) after a few
steps without a save; the run then goes on until the checkpoint is complete. The thread is `train.background`, the
process that of torch's async_save. Ways take turns; what else the machine does is in all of them.
Run from the checkout: `OMP_NUM_THREADS=1 python tests/benchmarks/checkpoints.py --folder FOLDER`, a disk with room.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType, async_save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import OffloadPolicy

from train.architecture import Architecture
from train.attention import isolate
from train.background import BackgroundWriter
from train.checkpoint import RunState, tensors_of, write_checkpoint
from train.loss import Trained
from train.model import Decoder
from train.parallel import shard_model
from train.weights import initialise

TOKENS = 128
SHAPE = Architecture.model_validate(
    {
        "model_type": "llama",
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
        "vocab_size": 32_000,
        "tie_word_embeddings": True,
    }
)
STATE = RunState(
    step=0,
    skipped=0,
    taken=(),
    generations=(),
    validation={},
    data="",
    packs_per_step=1,
    loss="",
    architecture=SHAPE,
    master_dtype="float32",
    config={},
)


@dataclass
class Seen:
    """Seconds of each save."""

    stood_still: list[float] = field(default_factory=list)
    until_complete: list[float] = field(default_factory=list)
    lost: list[float] = field(default_factory=list)  # of these, beyond what the steps meanwhile take without a save


class Bench:
    def __init__(self, folder: Path) -> None:
        device = torch.device("cpu")
        self.model = Decoder(SHAPE)
        shard_model(self.model, init_device_mesh("cpu", (1,)), torch.float32, OffloadPolicy())
        initialise(self.model, seed=0)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.writer = BackgroundWriter(device)
        self.shared = DefaultStager(StagingOptions(False, True, False, False))
        self.folder, self.saved = folder, 0
        self.ways: dict[str, Callable[[RunState], Future[Any] | None]] = {
            "at once": self.at_once,
            "thread": self.thread,
            "process": self.process,
        }

    def at_once(self, state: RunState) -> None:
        write_checkpoint(self.folder, state, tensors_of(self.model, self.optimizer), 1)

    def thread(self, state: RunState) -> Future[Any]:
        self.writer.start(self.folder, state, self.model, self.optimizer, 1)
        assert self.writer._writing
        return self.writer._writing

    def process(self, state: RunState) -> Future[Any]:
        tensors, name = tensors_of(self.model, self.optimizer), f"process-{state.step}"
        kind = AsyncCheckpointerType.PROCESS
        future = async_save(
            tensors, checkpoint_id=self.folder / name, async_checkpointer_type=kind, async_stager=self.shared
        )
        assert isinstance(future, Future)
        return future

    def step(self) -> float:
        """Its seconds."""
        since = time.monotonic()
        ids = torch.randint(0, 32_000, (1, TOKENS))
        isolation = isolate(torch.zeros_like(ids), torch.tensor([0, TOKENS], dtype=torch.int32), "varlen")
        trained = Trained(torch.arange(TOKENS), ids[0], torch.full((TOKENS,), 1 / TOKENS, dtype=torch.float64))
        self.model(ids, torch.arange(TOKENS)[None], isolation, trained)[0].backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.monotonic() - since

    def save(self, way: str, seen: Seen) -> None:
        before = statistics.median(self.step() for _ in range(3))
        self.saved += 1
        since = time.monotonic()
        writing = self.ways[way](STATE.model_copy(update={"step": self.saved}))
        seen.stood_still.append(time.monotonic() - since)
        meanwhile = []
        while writing and not writing.done():
            meanwhile.append(self.step())
        if writing:
            writing.result()
            self.writer.collect()
        seconds = time.monotonic() - since
        seen.until_complete.append(seconds)
        seen.lost.append(seconds - len(meanwhile) * before)
        for folder in self.folder.glob("process-*"):
            shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="default: the system's folder for temporary files")
    arguments = parser.parse_args()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        bench = Bench(Path(folder))
        parameters = sum(parameter.numel() for parameter in bench.model.parameters())
        print(f"{parameters / 1e6:.0f} M parameters, {12 * parameters / 1e9:.2f} GB a checkpoint", flush=True)
        seen = {way: Seen() for way in bench.ways}
        for number in range(arguments.rounds + 1):
            for way in bench.ways:  # the first round pays for what is kept: memory, the process
                bench.save(way, seen[way] if number else (first := Seen()))
                if not number:
                    print(f"first {way}: stood still {first.stood_still[0]:.2f} s", flush=True)
        for way, times in seen.items():
            columns = (times.stood_still, times.lost, times.until_complete)
            still, lost, complete = (
                f"{statistics.median(values):.2f} s ({min(values):.2f} to {max(values):.2f})" for values in columns
            )
            print(f"{way}: stood still {still}, lost in all {lost}, complete after {complete}", flush=True)
        bench.writer.close()
        bench.shared.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
