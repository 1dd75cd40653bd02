"""One schedule from its beginning to its verdict: builds while faults happen, what they left, a build after them."""

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from builds import WATCHDOG_SECONDS, Command, Ended, packline, run_task
from faults import Injector, read_log
from faulty_store import flip_in_place
from messages import explains
from polling import Reader
from schedules import Schedule, TimedKill
from sources import OTHER_RECIPE
from trainer import read_packs
from worlds import World, flip_file

from schemas.manifest import MANIFEST

STALL_SECONDS = 0.3
_POLL_SECONDS = 0.01
_LEFT_SECONDS = 5.0
"""A process of a build ends so soon after the one that launched it."""


@dataclass(frozen=True)
class Clean:
    """What a build without faults makes: files by name; how long it took."""

    files: dict[str, bytes]
    seconds: float

    def differences(self, world: World) -> list[str]:
        """What is missing or other in the world's output."""
        found = []
        for name, data in self.files.items():
            there = world.read(name)
            if there != data:
                found.append(f"{name} is {'missing' if there is None else 'another'}")
        return found


@dataclass
class Verdict:
    """`struck` are the kinds of faults that really happened. A data set is lost where `problems` is not empty."""

    schedule: Schedule
    struck: set[str] = field(default_factory=set)
    ended: list[Ended] = field(default_factory=list)
    published: bool = False  # while there were faults
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class Trial:
    """A schedule that is being run."""

    schedule: Schedule
    world: World
    recipes: Sequence[Clean]
    folder: Path
    break_it: Callable[[], None]

    def __post_init__(self) -> None:
        self.verdict = Verdict(self.schedule)
        self.clean = self.recipes[0]  # of the recipe that is published
        self.log = self.folder / "log"

    def run(self) -> None:
        reader = Reader(self.world, exact=not self._silent)
        commands = self._build(reader)
        self.verdict.problems += reader.problems
        self.world.begin((), self.log)
        struck = list(read_log(self.log))
        self.verdict.struck |= {fault.kind for fault in struck}
        if self.schedule.twice:
            self.verdict.struck.add("bundles delivered twice")
        if self.schedule.second == "at once":
            self.verdict.struck.add("two builds at once")
        for command, clean in zip(commands, (self.recipes[0], self.recipes[-1]), strict=False):
            self._judge_end(command.end(), clean)
            self._judge_processes(command)
        self._judge_output()
        if not self.verdict.problems:
            self._build_again()

    @property
    def _silent(self) -> bool:
        """Whether the store corrupts what it has taken, and tells nobody."""
        return any(fault.act == "flip" for fault in self.schedule.faults)

    @property
    def _was_killed(self) -> bool:
        return any(kind.startswith("kill ") for kind in self.verdict.struck)

    def _build(self, reader: Reader) -> list[Command]:
        schedule = self.schedule
        self.world.begin(schedule.faults, self.log)
        options = ["--workers", str(schedule.workers)]
        extra = ["--", "--direct_runner_bundle_repeat=1"] if schedule.twice else []
        first = Command(packline("build", "config.yaml", *options, *extra), self.folder, "first", self._arm)
        commands = [first]
        if schedule.second == "at once":
            commands.append(self._second())
        while running := [command for command in commands if command.poll() is None]:
            reader.look()
            if schedule.kill is not None:
                self._kill_in_time(schedule.kill, first)
            stopped = [fault.process for fault in read_log(self.log) if fault.act == "stop"]
            if stopped and len(commands) == 1 and schedule.second is not None:
                commands.append(self._second())
            if stopped and (schedule.second is None or commands[-1].poll() is not None):
                _go_on(stopped)
            if any(command.hangs for command in running):
                _go_on(stopped)
                break
            time.sleep(_POLL_SECONDS)
        reader.look()
        return commands

    def _second(self) -> Command:
        options = OTHER_RECIPE if self.schedule.second == "another recipe" else ()
        return Command(
            packline("build", "config.yaml", "--workers", "1", *options), self.folder, "second", lambda: None
        )

    def _arm(self) -> None:
        self.break_it()
        self.world.arm(Injector(self.schedule.faults, self.log, os.getpid(), self.world.change_source, STALL_SECONDS))

    def _kill_in_time(self, kill: TimedKill, build: Command) -> None:
        if kill.kind in self.verdict.struck or time.monotonic() - build.began < kill.share * self.clean.seconds:
            return
        victims = [p for p in build.processes() if _role(p, build.process) == kill.victim]
        if victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victims[0].kill()
                self.verdict.struck.add(kill.kind)

    def _judge_end(self, ended: Ended, clean: Clean) -> None:
        self.verdict.ended.append(ended)
        if ended.code == 0 and self.world.read(MANIFEST) != clean.files[MANIFEST]:
            self.verdict.problems.append("a build says that it published, and its manifest is not there")
        if ended.code is None:
            self.verdict.problems.append(f"a build hung for {WATCHDOG_SECONDS} s: {ended.text[-300:]}")
        elif ended.code == 0 or (ended.code == -signal.SIGKILL and self._was_killed):
            return
        elif ended.code not in (1, 2):
            self.verdict.problems.append(f"exit code {ended.code}: {ended.text[-300:]}")
        elif not explains(ended.text, self.verdict.struck):
            self.verdict.problems.append(f"the error does not name its cause: {ended.text[-600:]}")

    def _judge_processes(self, command: Command) -> None:
        deadline = time.monotonic() + _LEFT_SECONDS
        while left := command.processes():
            if time.monotonic() > deadline:
                self.verdict.problems.append(f"{len(left)} processes of a build live on after it")
                command.kill()
                return
            time.sleep(0.05)

    def _judge_output(self) -> None:
        """Nothing is published, or the very data set."""
        self.verdict.published = self.world.read(MANIFEST) is not None
        if not self.verdict.published:
            return
        if self.world.read(MANIFEST) == self.recipes[-1].files[MANIFEST]:
            self.clean = self.recipes[-1]
        if self._silent and self.verdict.struck & {"a byte flipped before publishing"}:
            self._judge_verify(finds="sha256|[Cc]hecksum")
        else:
            self.verdict.problems += self.clean.differences(self.world)

    def _judge_verify(self, finds: str | None) -> None:
        """`verify --deep` has no finding, or one that matches."""
        profile = ["--profile", self.world.profile] if self.world.profile else []
        ended = run_task(packline("verify", self.world.output, "--deep", *profile), self.folder, "verify")
        if (ended.code == 0) != (finds is None) or (finds and not re.search(finds, ended.text)):
            self.verdict.problems.append(f"verify --deep (expected: {finds}): {ended.text[-300:]}")

    def _damage(self) -> bool:
        """Damage what is there, as the schedule says; whether a build has to look at hashes to find it."""
        kind, published = self.schedule.damage, self.world.read(MANIFEST) is not None
        folders = {"shard": ("shards/", "holdout/"), "missing": ("shards/",), "state": ("state/",), "cache": ()}
        names = [name for name in self.world.names() if kind and name.startswith(folders[kind])]
        names = [name for name in names if name in self.clean.files or (kind == "state" and name.endswith(".json"))]
        if not kind or kind == "cache" or not names:
            return False
        name = names[self.schedule.number % len(names)]
        if kind == "missing":
            self.world.remove(name)
        else:
            flip_file(self.world, name)
        told = {"shard": "a byte flipped after publishing", "state": "a byte flipped in a state file"}
        self.verdict.struck.add(told.get(kind, "a shard removed"))
        if published and kind != "state":
            self._judge_verify(finds=name)
            self._judge_training(finds=name)
        return kind == "shard"

    def _judge_training(self, finds: str) -> None:
        """The trainer reads no token of a shard that is not what the manifest says."""
        ended = self._train()
        if ended.code != 1 or finds not in ended.text:
            self.verdict.problems.append(f"the trainer does not find that {finds} is damaged: {ended.text[-300:]}")

    def _train(self) -> Ended:
        return run_task(read_packs(self.world.output, self.world.profile, self.folder / "cache"), self.folder, "train")

    def _damage_cache(self) -> None:
        """A shard that the trainer has on its own disk is damaged there: it fetches it again."""
        clean = self._train()
        cached = sorted((self.folder / "cache").iterdir())
        flip_in_place(str(cached[self.schedule.number % len(cached)]))
        ended = self._train()
        self.verdict.struck.add("a byte flipped in the trainer's cache")
        if (ended.code, ended.text) != (clean.code, clean.text) or clean.code != 0:
            self.verdict.problems.append(f"the trainer reads a damaged cache: {clean.text} {ended.text[-300:]}")

    def _build_again(self) -> None:
        """Without faults it ends in the very data set, whatever they have left."""
        self.world.restore_sources()
        check = self._damage() or self._silent
        arguments = ["build", "config.yaml", "--workers", "1", *(["--check"] if check else [])]
        if self.clean is not self.recipes[0]:
            arguments += OTHER_RECIPE
            ended = run_task(packline("build", "config.yaml", "--workers", "1"), self.folder, "refused")
            if ended.code != 2 or "another recipe" not in ended.text:
                self.verdict.problems.append(f"another recipe's folder was not refused: {ended.text[-300:]}")
        ended = run_task(packline(*arguments), self.folder, "again")
        if ended.code != 0:
            self.verdict.problems.append(f"the build after it fails: {ended.text[-600:]}")
        self.verdict.problems += [f"after another build {problem}" for problem in self.clean.differences(self.world)]
        self._judge_verify(finds=None)
        if self.schedule.damage == "cache":
            self._damage_cache()


def _go_on(processes: Sequence[int]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)


def _role(process: psutil.Process, launcher: int) -> str | None:
    """What a process of a build does."""
    with contextlib.suppress(psutil.NoSuchProcess):
        if process.pid == launcher:
            return "launcher"
        return "forker" if process.ppid() == launcher else "worker"
    return None
