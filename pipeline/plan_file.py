"""How a plan reaches the workers: as a file in the output folder, which all of them write to anyway.

So what is submitted to a runner stays small however many files a build reads (a plan grows with them, and runners send
a copy of it with each step), and a worker needs no other file of the submitting machine: the plan holds the bytes of
the tokenizer's files and the code of custom transforms.
"""

import hashlib
import pickle
import threading
from dataclasses import dataclass

from pipeline.build_plan import BuildPlan
from schemas import __version__
from schemas.errors import DatasetError
from schemas.store import Folder

_kept: dict[str, BuildPlan] = {}
"""The plan of this process by its sha256: one at a time."""
_keeping = threading.Lock()
"""A worker's threads ask for it all at once; one of them loads."""


@dataclass(frozen=True, slots=True)
class PlanFile:
    """`sha256` is that of the file's bytes: a worker runs what was submitted, and nothing that was put in its place.
    `packline` is the version that wrote it."""

    output: Folder
    name: str
    sha256: str
    packline: str = __version__

    def load(self) -> BuildPlan:
        """Raises DatasetError where the file is gone or another, or this worker has another packline."""
        if self.packline != __version__:
            raise DatasetError(
                f"a worker has packline {__version__}, and the build was started by {self.packline}: install the same "
                "on the workers and where the build starts"
            )
        with _keeping:
            if self.sha256 not in _kept:
                plan = pickle.loads(self._read())
                _kept.clear()
                _kept[self.sha256] = plan
            return _kept[self.sha256]

    def _read(self) -> bytes:
        try:
            data = self.output.read(self.name)
        except FileNotFoundError as error:
            raise DatasetError(
                f"{self.output.shown}: a worker on this machine does not see {self.name}, which the build wrote when "
                "it was started: the output must be a folder that all machines share, or an object store"
            ) from error
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise DatasetError(f"{self.output.shown}: {self.name} is not what this build wrote; build again")
        return data


def write_plan(plan: BuildPlan) -> PlanFile:
    """Write the plan for the workers, and keep it for those of this process."""
    data = pickle.dumps(plan)
    sha256 = hashlib.sha256(data).hexdigest()
    file = PlanFile(plan.output, f"{plan.state.folder}/{sha256[:16]}.plan", sha256)
    file.output.ensure(file.name, data)
    with _keeping:
        _kept.clear()
        _kept[sha256] = plan
    return file
