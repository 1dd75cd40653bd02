"""Schedules one after the other, and the clean data sets that they are compared with."""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from builds import load_what_is_used, packline, run_task
from schedules import Schedule
from sources import OTHER_RECIPE, make_config
from trial import Clean, Trial, Verdict
from worlds import World

from schemas.manifest import MANIFEST, decode_manifest


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
            build = packline("build", "config.yaml", "--workers", "1", *options)
            if not self._clean:
                load_what_is_used(build, folder)
                folder = self._prepare(world, folder.name)
            ended = run_task(build, folder, "clean")
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
