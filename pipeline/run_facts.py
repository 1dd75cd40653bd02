"""What a run measured: when its parts began and ended, and how fast they were. Told in the summary and kept in `runs/`,
which nothing reads."""

import platform
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import psutil

from pipeline.block_info import BlockState


def process_start() -> datetime:
    """When this process was started, to a hundredth of a second, imports and all."""
    start = psutil.Process().create_time()
    if hasattr(time, "CLOCK_BOOTTIME"):  # Linux: psutil adds to the time of boot, which is in whole seconds
        start += time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) - psutil.boot_time()
    return datetime.fromtimestamp(start, UTC)


@dataclass
class RunFacts:
    """Of the blocks that were computed since `build_start`, by the clocks of their workers."""

    process_start: datetime = field(default_factory=process_start)
    build_start: datetime = field(default_factory=lambda: datetime.now(UTC))
    first_block_read: datetime | None = None  # when its reading began
    last_block_written: datetime | None = None
    published: datetime | None = None
    blocks: int = 0
    blocks_before: int = 0  # of an earlier run, which were there already
    input_bytes: int = 0
    processes: set[str] = field(default_factory=set)  # HOST:PID of each worker
    peak_memory: int = 0  # the largest of a worker, in bytes

    def add(self, state: BlockState) -> None:
        """Count a finished block, if it is this run's."""
        if state.finished < self.build_start:
            self.blocks_before += 1
            return
        self.first_block_read = min(state.begun, self.first_block_read or state.begun)
        self.last_block_written = max(state.finished, self.last_block_written or state.finished)
        self.blocks += 1
        self.input_bytes += state.info.input_bytes
        self.processes.add(state.process)
        self.peak_memory = max(self.peak_memory, state.peak_memory)

    @property
    def work_seconds(self) -> float:
        """From the first block to the manifest."""
        return self._seconds(self.first_block_read)

    @property
    def seconds(self) -> float:
        """From the start of the process to the manifest."""
        return self._seconds(self.process_start)

    def _seconds(self, start: datetime | None) -> float:
        return (self.published - start).total_seconds() if self.published and start else 0.0

    def rate(self, seconds: float) -> float:
        """MB/s of the input that this run went through."""
        return self.input_bytes / 1e6 / seconds if seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        names = ("process_start", "build_start", "first_block_read", "last_block_written", "published")
        times = {name: getattr(self, name) for name in names}
        return {
            "host": platform.node(),
            "python": platform.python_version(),
            "times": {name: at.isoformat() for name, at in times.items() if at},
            "seconds": {name: round((at - self.process_start).total_seconds(), 3) for name, at in times.items() if at},
            "blocks": self.blocks,
            "blocks_before": self.blocks_before,
            "input_bytes": self.input_bytes,
            "work_megabytes_per_second": round(self.rate(self.work_seconds), 3),
            "process_megabytes_per_second": round(self.rate(self.seconds), 3),
            "peak_memory": self.peak_memory,
        }
