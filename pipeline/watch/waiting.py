"""Which new files are complete, and whether they are a generation by now: decided from looks alone."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from pipeline.config import Watch
from pipeline.readers.files import Stamp

Place: TypeAlias = tuple[int, str]
"""What a file is known by: the entry of `sources` that it belongs to, and its path as configured."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A file that is not taken yet, at the latest look. Since when it has been complete is in seconds of a monotonic
    clock; None while somebody may be writing it."""

    stamp: Stamp
    complete_since: float | None


def look_again(
    before: Mapping[Place, Waiting], found: Mapping[Place, Stamp], marked: Collection[Place] | None, now: float
) -> dict[Place, Waiting]:
    """The files that wait after one more look, in the order in which they were found. A file is complete if it is
    marked; where nothing is marked, if it is not empty and is what it was at the look before."""
    waiting = {}
    for place, stamp in found.items():
        earlier = before.get(place)
        same = earlier is not None and earlier.stamp == stamp
        complete = same and stamp.size > 0 if marked is None else place in marked
        since = earlier.complete_since if earlier and same else None
        waiting[place] = Waiting(stamp, (now if since is None else since) if complete else None)
    return waiting


def complete_files(waiting: Mapping[Place, Waiting]) -> list[Place]:
    return [place for place, file in waiting.items() if file.complete_since is not None]


def due_files(waiting: Mapping[Place, Waiting], settings: Watch, now: float) -> list[Place]:
    """The complete files, once they are large enough together or one of them has waited long enough; else none."""
    complete = complete_files(waiting)
    size = sum(waiting[place].stamp.size for place in complete)
    oldest = min((file.complete_since for file in waiting.values() if file.complete_since is not None), default=now)
    if settings.min_bytes is None or size >= settings.min_bytes or now - oldest >= settings.max_wait:
        return complete
    return []
