"""A dozen schedules in which every kind of fault strikes, and broken builds that the harness must not let pass."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from faults import FOR_EVER, Fault
from schedules import Schedule

import pipeline.cli
import pipeline.publish
from schemas.store import Folder


def every_kind() -> tuple[Schedule, ...]:
    """What can be told from each other is put into one."""
    passing = (
        Fault("store: an answer lost", "lose", "write", "manifest"),
        Fault("store: 503 for a while", "refuse", "write", "shard", 2, 2),
        Fault("store: an error", "fail", "write", "tokenizer", 2),
        Fault("store: an error in reading", "fail", "read", "source", 6),
        Fault("store: cuts what is read", "truncate", "read", "source", 3, 1, "half"),
        Fault("store: stalls", "stall", "write", "state", 2),
    )
    mark = Fault("store: cuts what is written", "truncate", "write", "mark", 2)
    return (
        Schedule(0, "s3", twice=True, faults=passing),
        Schedule(1, "wrapper", faults=(Fault("store: 503 for ever", "refuse", "write", "reject", 1, FOR_EVER),)),
        Schedule(2, "disk", faults=(_kill("kill at a write", "half"),), damage="state"),
        Schedule(3, "disk", workers=2, faults=(_kill("kill a worker"),)),
        Schedule(4, "wrapper", workers=2, faults=(_kill("kill the process that forks workers", victim="parent"),)),
        Schedule(5, "disk", workers=2, faults=(_kill("kill the launching process", victim="launcher"),)),
        Schedule(6, "disk", second="late", faults=(mark, Fault("zombie", "stop", "write", "manifest")), damage="shard"),
        Schedule(7, "wrapper", second="at once", damage="missing"),
        Schedule(8, "disk", second="another recipe", faults=(Fault("another recipe", "stop", "write", "state", 2),)),
        Schedule(9, "wrapper", faults=(Fault("store: cuts what is written", "truncate", "write", "shard", 2),)),
        Schedule(10, "disk", faults=(Fault("a byte flipped before publishing", "flip", "write", "shard", 2),)),
        Schedule(11, "wrapper", faults=(Fault("a source grows", "grow", "open", "source", 9),), damage="cache"),
        Schedule(12, "disk", faults=(Fault("a source changes", "change", "open", "source", 7),)),
        Schedule(13, "wrapper", faults=(Fault("a source disappears", "remove", "write", "mark", 1),)),
        Schedule(14, "disk", faults=(Fault("disk full", "full", "write", "shard", 3),)),
    )


def _kill(kind: str, moment: str = "before", victim: str = "self") -> Fault:
    return Fault(kind, "kill", "write", "shard", 3, 1, moment, victim)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Broken:
    """What is broken, in which schedule it shows, and a word of what the harness must say."""

    break_it: Callable[[], None]
    schedule: Schedule
    finds: str


def _publish_unseen() -> None:
    pipeline.publish._check_files = lambda _blocks, _output: None


def _publish_over_another() -> None:
    def overwrite(folder: Folder, name: str, data: bytes, _settle_seconds: float) -> bool:
        folder.write(name, data)
        return True

    pipeline.publish.create_once = overwrite
    pipeline.publish.refuse_other = lambda _manifest, _output: None


def _corrupt_in_silence() -> None:
    write = Folder.write

    def corrupt(folder: Folder, name: str, data: bytes) -> None:
        write(folder, name, bytes(data).replace(b"ARROW1", b"ARROW2") if name.startswith("shards/") else data)

    Folder.write = corrupt  # type: ignore[assignment]


def _tell_nothing() -> None:
    pipeline.cli.explain = lambda error: print(f"packline: {type(error).__name__}") or 1


_CUT = Schedule(0, "disk", faults=(Fault("store: cuts what is written", "truncate", "write", "shard", 2),))
_OTHER = Schedule(0, "disk", second="another recipe", faults=(Fault("another recipe", "stop", "write", "state", 2),))
_FULL = Schedule(0, "disk", faults=(Fault("disk full", "full", "write", "shard", 2),))

BROKEN: Mapping[str, Broken] = {
    "publishes without looking at the shards": Broken(_publish_unseen, _CUT, "is another"),
    "publishes over another data set": Broken(_publish_over_another, _OTHER, "saw the manifest change"),
    "a store corrupts in silence": Broken(_corrupt_in_silence, Schedule(0, "disk"), "is another"),
    "an error names no cause": Broken(_tell_nothing, _FULL, "does not name its cause"),
}
