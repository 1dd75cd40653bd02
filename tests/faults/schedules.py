"""What a random schedule is: where a build runs, what goes wrong, and who else is building."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from faults import FOR_EVER, Fault, FileKind

Store = Literal["disk", "wrapper", "s3"]
Second = Literal["at once", "late", "another recipe"]
Damage = Literal["shard", "state", "missing", "cache"]

WRITTEN: tuple[FileKind, ...] = ("shard", "reject", "state", "mark", "manifest", "tokenizer", "other")

CUT: tuple[FileKind, ...] = ("shard", "reject", "state", "mark", "tokenizer")
"""Not the manifest: that a store shows a file whole or not at all is what publishing stands on."""


@dataclass(frozen=True)
class TimedKill:
    """SIGKILL to a process of the build, some time after it began: a share of what a clean build takes."""

    kind: str
    victim: Literal["launcher", "forker", "worker"]
    share: float


@dataclass(frozen=True)
class Schedule:
    """`second` is another build into the same folder: at once, or when the first one was stopped, which goes on when
    the second has ended. `damage` is done to the output after the build and before the next; to the
    trainer's cache when that has ended."""

    number: int
    store: Store
    workers: int = 1
    twice: bool = False  # every bundle is delivered twice
    second: Second | None = None
    faults: tuple[Fault, ...] = ()
    kill: TimedKill | None = None
    damage: Damage | None = None

    @property
    def name(self) -> str:
        return f"{self.number:04d}"


class _Draw:
    """A schedule in the making."""

    def __init__(self, rng: random.Random, number: int) -> None:
        self.rng = rng
        self.number = number
        self.store: Store = rng.choice(("disk", "disk", "wrapper", "wrapper", "s3"))
        self.workers = rng.choice((1, 1, 1, 2))
        self.twice = False
        self.second: Second | None = None
        self.faults: list[Fault] = []
        self.kill: TimedKill | None = None
        self.damage: Damage | None = None

    def file(self) -> FileKind:
        return self.rng.choice(WRITTEN)

    def nth(self, file: FileKind) -> int:
        """Of so many such files the clean build writes."""
        most = {"shard": 12, "reject": 3, "state": 8, "mark": 8, "manifest": 1, "tokenizer": 6, "source": 8, "other": 4}
        return self.rng.randint(1, most[file])

    def write(self, kind: str, act: str, file: FileKind | None = None, times: int = 1, moment: str = "before") -> None:
        file = file or self.file()
        self.faults.append(Fault(kind, act, "write", file, self.nth(file), times, moment))  # type: ignore[arg-type]

    def schedule(self) -> Schedule:
        return Schedule(
            self.number, self.store, self.workers, self.twice, self.second, tuple(self.faults), self.kill, self.damage
        )


def _kill_in_write(draw: _Draw) -> None:
    draw.write("kill at a write", "kill", moment=draw.rng.choice(("before", "half", "after")))


def _kill_worker(draw: _Draw) -> None:
    draw.workers = 2
    draw.kill = TimedKill("kill a worker", "worker", draw.rng.uniform(0.3, 1.0))


def _kill_forker(draw: _Draw) -> None:
    draw.workers = 2
    draw.kill = TimedKill("kill the process that forks workers", "forker", draw.rng.uniform(0.0, 1.0))


def _kill_launcher(draw: _Draw) -> None:
    draw.kill = TimedKill("kill the launching process", "launcher", draw.rng.uniform(0.0, 1.0))


def _twice(draw: _Draw) -> None:
    draw.twice = True


def _zombie(draw: _Draw) -> None:
    draw.second = "late"
    file: FileKind = draw.rng.choice(("shard", "state", "manifest", "reject", "tokenizer"))
    draw.write("zombie", "stop", file)


def _at_once(draw: _Draw) -> None:
    draw.second = "at once"


def _another_recipe(draw: _Draw) -> None:
    draw.second = "another recipe"
    draw.write("another recipe", "stop", draw.rng.choice(("shard", "state", "manifest")))


def _fails(draw: _Draw) -> None:
    draw.write("store: an error", "fail", times=draw.rng.choice((1, 1, 2, FOR_EVER)))


def _fails_to_read(draw: _Draw) -> None:
    draw.store = draw.rng.choice(("wrapper", "s3"))
    file: FileKind = draw.rng.choice(("source", "state", "mark", "tokenizer"))
    times = draw.rng.choice((1, FOR_EVER))
    draw.faults.append(Fault("store: an error in reading", "fail", "read", file, draw.nth(file), times))


def _stalls(draw: _Draw) -> None:
    draw.write("store: stalls", "stall", times=draw.rng.choice((1, 2, FOR_EVER)))


def _refuses_for_a_while(draw: _Draw) -> None:
    draw.store = draw.rng.choice(("wrapper", "s3", "s3"))
    draw.write("store: 503 for a while", "refuse", times=draw.rng.randint(1, 3))


def _refuses(draw: _Draw) -> None:
    draw.store = draw.rng.choice(("wrapper", "s3"))
    draw.write("store: 503 for ever", "refuse", times=FOR_EVER)


def _loses_answer(draw: _Draw) -> None:
    file: FileKind = draw.rng.choice(("manifest", "manifest", draw.file()))
    draw.write("store: an answer lost", "lose", file)


def _truncates_write(draw: _Draw) -> None:
    draw.write("store: cuts what is written", "truncate", draw.rng.choice(CUT))


def _truncates_read(draw: _Draw) -> None:
    draw.store = draw.rng.choice(("wrapper", "s3"))
    file: FileKind = draw.rng.choice(("source", "source", "state", "manifest"))
    kind = "store: cuts what is read"
    draw.faults.append(Fault(kind, "truncate", "read", file, draw.nth(file), 1, draw.rng.choice(("before", "half"))))


def _full(draw: _Draw) -> None:
    draw.write("disk full", "full", times=draw.rng.choice((1, FOR_EVER)))


def _flip_in_write(draw: _Draw) -> None:
    draw.write("a byte flipped before publishing", "flip", "shard")


def _flip_after(draw: _Draw) -> None:
    draw.damage = "shard"


def _flip_state(draw: _Draw) -> None:
    draw.damage = "state"
    draw.write("kill at a write", "kill", draw.rng.choice(("shard", "manifest")))


def _missing_shard(draw: _Draw) -> None:
    draw.damage = "missing"


def _flip_cached(draw: _Draw) -> None:
    draw.store = draw.rng.choice(("wrapper", "s3"))  # what is on the local disk is not cached
    draw.damage = "cache"


def _source(act: str) -> Callable[[_Draw], None]:
    kinds = {"change": "a source changes", "grow": "a source grows", "remove": "a source disappears"}

    def draw_source(draw: _Draw) -> None:
        if draw.rng.random() < 0.5:
            draw.faults.append(Fault(kinds[act], act, "open", "source", draw.rng.randint(2, 12)))  # type: ignore[arg-type]
        else:
            draw.write(kinds[act], act, draw.rng.choice(("shard", "mark", "other")))

    return draw_source


KINDS: Mapping[str, Callable[[_Draw], None]] = {
    "kill at a write": _kill_in_write,
    "kill a worker": _kill_worker,
    "kill the process that forks workers": _kill_forker,
    "kill the launching process": _kill_launcher,
    "bundles delivered twice": _twice,
    "zombie": _zombie,
    "two builds at once": _at_once,
    "another recipe": _another_recipe,
    "store: an error": _fails,
    "store: an error in reading": _fails_to_read,
    "store: stalls": _stalls,
    "store: 503 for a while": _refuses_for_a_while,
    "store: 503 for ever": _refuses,
    "store: an answer lost": _loses_answer,
    "store: cuts what is written": _truncates_write,
    "store: cuts what is read": _truncates_read,
    "disk full": _full,
    "a byte flipped before publishing": _flip_in_write,
    "a byte flipped after publishing": _flip_after,
    "a byte flipped in a state file": _flip_state,
    "a byte flipped in the trainer's cache": _flip_cached,
    "a shard removed": _missing_shard,
    "a source changes": _source("change"),
    "a source grows": _source("grow"),
    "a source disappears": _source("remove"),
}


def make_schedule(seed: int, number: int) -> Schedule:
    """The kinds come in turn, so that all come about as often; to one in three another kind is added."""
    rng = random.Random(f"{seed}-{number}")
    draw = _Draw(rng, number)
    names = list(KINDS)
    KINDS[names[number % len(names)]](draw)
    if rng.random() < 1 / 3:
        KINDS[rng.choice(names)](draw)
    return draw.schedule()
