"""What goes wrong, and when, in the process in which it does."""

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Act = Literal["kill", "stop", "fail", "stall", "truncate", "refuse", "lose", "full", "flip", "change", "grow", "remove"]
Moment = Literal["before", "half", "after"]
Victim = Literal["self", "parent", "launcher"]
Operation = Literal["write", "read", "open"]
FileKind = Literal["shard", "reject", "state", "mark", "manifest", "tokenizer", "source", "other"]

_KINDS: tuple[tuple[FileKind, str], ...] = (
    ("shard", r"(^|/)(shards|holdout)/"),
    ("reject", r"(^|/)rejects/"),
    ("state", r"(^|/)state/.+\.json"),
    ("mark", r"(^|/)state/.+\.begun"),
    ("manifest", r"(^|/)\.?manifest[^/]*\.json"),
    ("tokenizer", r"(^|/)out/tokenizer/"),
    ("source", r"(^|/)in/"),
)
FOR_EVER = 10**6


def file_kind(path: str) -> FileKind:
    return next((kind for kind, pattern in _KINDS if re.search(pattern, path)), "other")


@dataclass(frozen=True)
class Fault:
    """`kind` is a row of the table. It strikes at the `nth` operation on such a file (None: on any) in each process of
    the build, counted from 1, and at those after it, `times` in all. `moment` is of kills alone."""

    kind: str
    act: Act
    operation: Operation
    file: FileKind | None
    nth: int = 1
    times: int = 1
    moment: Moment = "before"
    victim: Victim = "self"


@dataclass
class Injector:
    """The faults of one process. What strikes is written down first: a line of its act, its kind, the process and the
    file."""

    faults: Sequence[Fault]
    log: Path
    launcher: int
    change_source: Callable[[str, Act], None]
    stall_seconds: float
    _counts: dict[int, int] = field(default_factory=dict)

    def next(self, operation: Operation, path: str) -> Fault | None:
        """The fault that strikes at this operation, if any."""
        struck = None
        for index, fault in enumerate(self.faults):
            if fault.operation == operation and fault.file in (None, file_kind(path)):
                count = self._counts[index] = self._counts.get(index, 0) + 1
                if struck is None and fault.nth <= count < fault.nth + fault.times:
                    struck = fault
        if struck is not None:
            write_down(self.log, struck, os.getpid(), path)
        return struck

    def interrupt(self, fault: Fault | None, moment: Moment, source: str = "chats.jsonl") -> None:
        """End or stop a process, or change a source, where the fault says so."""
        if fault is None or fault.moment != moment:
            return
        if fault.act == "kill":
            victims = {"self": os.getpid(), "parent": os.getppid(), "launcher": self.launcher}
            os.kill(victims[fault.victim], signal.SIGKILL)
        elif fault.act == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif fault.act in ("change", "grow", "remove"):
            self.change_source(source, fault.act)

    def stall(self) -> None:
        time.sleep(self.stall_seconds)


def write_down(log: Path, fault: Fault, process: int, path: str) -> None:
    line = f"{fault.act}\t{fault.kind}\t{process}\t{path}\n"
    with open(log, "ab", buffering=0) as file:
        file.write(line.encode())


@dataclass(frozen=True)
class Struck:
    """A line of the log."""

    act: str
    kind: str
    process: int
    path: str


def read_log(log: Path) -> Iterator[Struck]:
    with contextlib.suppress(FileNotFoundError):
        for line in log.read_text().splitlines():
            act, kind, process, path = line.split("\t")
            yield Struck(act, kind, int(process), path)


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes) -> bytes:
    """One bit of a byte in the middle."""
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
