"""Where a schedule takes place: the stores that sources and output are on, each with its ways to fail."""

import os
import posixpath
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

import sources
from faults import Act, Fault, Injector, flip
from faulty_store import FaultyStore, flip_in_place, inject_into_disk

import pipeline.readers.files
from pipeline.blocks import SourceFile


class World(Protocol):
    name: str
    source_folder: str
    output: str
    profile: str | None  # of the stores' options

    def prepare(self, folder: Path) -> None:
        """Nothing is there but the sources; `folder` is the working folder of the commands."""

    def begin(self, faults: Sequence[Fault], log: Path) -> None:
        """From now on the store has these faults; called by the harness."""

    def arm(self, injector: Injector) -> None:
        """From now on this process has the injector's faults; called in the process of a command."""

    def read(self, name: str) -> bytes | None:
        """A file of the output, past all faults; None where there is none."""

    def write(self, name: str, data: bytes) -> None: ...

    def remove(self, name: str) -> None: ...

    def names(self) -> list[str]:
        """All files of the output."""

    def change_source(self, name: str, act: Act) -> None: ...

    def restore_sources(self) -> None: ...


class DiskWorld:
    """The local disk."""

    name = "disk"
    source_folder = "in"
    output = "out"
    profile: str | None = None

    def __init__(self) -> None:
        self._sources = sources.make_sources()
        self._folder = Path()

    def prepare(self, folder: Path) -> None:
        self._folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "in").mkdir(parents=True)
        self.restore_sources()

    def begin(self, faults: Sequence[Fault], log: Path) -> None: ...

    def arm(self, injector: Injector) -> None:
        inject_into_disk(injector)
        inject_into_sources(injector)

    def read(self, name: str) -> bytes | None:
        try:
            return (self._folder / "out" / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, data: bytes) -> None:
        (self._folder / "out" / name).write_bytes(data)

    def remove(self, name: str) -> None:
        (self._folder / "out" / name).unlink()

    def names(self) -> list[str]:
        out = self._folder / "out"
        return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())

    def change_source(self, name: str, act: Act) -> None:
        path = self._folder / "in" / name
        if act == "change":
            flip_in_place(str(path))
        elif act == "grow":
            with open(path, "ab") as file:
                file.write(b'{"messages": []}\n')
        else:
            path.unlink(missing_ok=True)

    def restore_sources(self) -> None:
        """As they were: the time of modification, too, tells a changed file."""
        for name, data in self._sources.items():
            path = self._folder / "in" / name
            path.write_bytes(data)
            os.utime(path, (1, 1))


class WrapperWorld(DiskWorld):
    """The file system of faulty_store, over the same folders."""

    name = "wrapper"
    source_folder = "faulty://in"
    output = "faulty://out"

    def arm(self, injector: Injector) -> None:
        FaultyStore.injector = injector
        inject_into_sources(injector)


def inject_into_sources(injector: Injector) -> None:
    """Changes a source just after it was found unchanged, before it is read."""
    open_unchanged = pipeline.readers.files._open

    def opened(file: SourceFile, expected_end: int | None) -> BinaryIO:
        injector.interrupt(injector.next("open", file.url), "before", posixpath.basename(file.url))
        return open_unchanged(file, expected_end)

    pipeline.readers.files._open = opened


def flip_file(world: World, name: str) -> None:
    data = world.read(name)
    assert data
    world.write(name, flip(data))
