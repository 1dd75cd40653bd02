"""One schedule from its beginning to its verdict: builds while faults happen, what they left, a build after them."""

import contextlib
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from builds import WATCHDOG_SECONDS, Command, Ended, load_what_is_used, run_command
from faults import Injector, read_log
from messages import explains
from polling import Reader
from schedules import Schedule, TimedKill
from sources import OTHER_RECIPE, make_config
from worlds import World, flip_file

from schemas.manifest import MANIFEST, decode_manifest

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


class Harness:
    """Runs schedules in a folder, one after the other."""

    def __init__(self, worlds: Sequence[World], folder: Path) -> None:
        self._worlds = {world.name: world for world in worlds}
        self._folder = folder
        self._clean: dict[tuple[str, bool], Clean] = {}

    def run(self, schedule: Schedule, break_it: Callable[[], None] = lambda: None) -> Verdict:
        """`break_it` is called in the process of the first build: by it the harness is shown to find what is wrong."""
        began = time.monotonic()
        world = self._worlds[schedule.store]
        recipes = [self.clean(world, other=False)]
        if schedule.second == "another recipe":
            recipes.append(self.clean(world, other=True))
        folder = self._prepare(world, schedule.name)
        trial = Trial(schedule, world, recipes, folder, break_it)
        trial.run()
        trial.verdict.seconds = time.monotonic() - began
        if not trial.verdict.problems:
            shutil.rmtree(folder)
        return trial.verdict

    def clean(self, world: World, *, other: bool) -> Clean:
        """What the build makes, or what another recipe makes of the same sources."""
        key = world.name, other
        if key not in self._clean:
            folder = self._prepare(world, f"clean-{world.name}-{other}")
            options = OTHER_RECIPE if other else ()
            arguments = ["build", "config.yaml", "--workers", "1", *options]
            if not self._clean:
                load_what_is_used(arguments, folder)
                folder = self._prepare(world, folder.name)
            ended = run_command(arguments, folder, "clean")
            assert ended.code == 0, ended.text
            data = world.read(MANIFEST)
            assert data is not None
            names = [MANIFEST, *named_files(data), *(n for n in world.names() if n.startswith("tokenizer/"))]
            self._clean[key] = Clean({name: _there(world.read(name)) for name in names}, ended.seconds)
        return self._clean[key]

    def _prepare(self, world: World, name: str) -> Path:
        folder = self._folder / name
        world.prepare(folder)
        (folder / "config.yaml").write_text(make_config(world.source_folder, world.output, world.profile))
        return folder


def _there(data: bytes | None) -> bytes:
    assert data is not None
    return data


def named_files(manifest: bytes) -> list[str]:
    """All files that a manifest names."""
    found = decode_manifest(manifest, MANIFEST)
    holdout = found.holdout.shards if found.holdout else []
    return [file.name for file in [*found.shards, *holdout, *found.rejects.files]]


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

    def _build(self, reader: Reader) -> list[Command]:
        schedule = self.schedule
        self.world.begin(schedule.faults, self.log)
        options = ["--workers", str(schedule.workers)]
        extra = ["--", "--direct_runner_bundle_repeat=1"] if schedule.twice else []
        first = Command(["build", "config.yaml", *options, *extra], self.folder, "first", self._arm)
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
        return Command(["build", "config.yaml", "--workers", "1", *options], self.folder, "second", lambda: None)

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
        elif ended.code == -signal.SIGKILL or ended.code == 0:
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
        ended = run_command(["verify", self.world.output, "--deep", *profile], self.folder, "verify")
        if (ended.code == 0) != (finds is None) or (finds and not re.search(finds, ended.text)):
            self.verdict.problems.append(f"verify --deep (expected: {finds}): {ended.text[-300:]}")

    def _damage(self) -> bool:
        """Damage what is there, as the schedule says; whether a build has to look at hashes to find it."""
        kind, published = self.schedule.damage, self.world.read(MANIFEST) is not None
        folders = {"shard": ("shards/", "holdout/"), "missing": ("shards/",), "state": ("state/",)}
        names = [name for name in self.world.names() if kind and name.startswith(folders[kind])]
        names = [name for name in names if name in self.clean.files or (kind == "state" and name.endswith(".json"))]
        if not kind or not names:
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
        return kind == "shard"

    def _build_again(self) -> None:
        """Without faults it ends in the very data set, whatever they have left."""
        self.world.restore_sources()
        check = self._damage() or self._silent
        arguments = ["build", "config.yaml", "--workers", "1", *(["--check"] if check else [])]
        if self.clean is not self.recipes[0]:
            arguments += OTHER_RECIPE
            ended = run_command(["build", "config.yaml", "--workers", "1"], self.folder, "refused")
            if ended.code != 2 or "another recipe" not in ended.text:
                self.verdict.problems.append(f"another recipe's folder was not refused: {ended.text[-300:]}")
        ended = run_command(arguments, self.folder, "again")
        if ended.code != 0:
            self.verdict.problems.append(f"the build after it fails: {ended.text[-600:]}")
        self.verdict.problems += [f"after another build {problem}" for problem in self.clean.differences(self.world)]
        self._judge_verify(finds=None)


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
