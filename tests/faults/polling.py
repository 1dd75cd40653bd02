"""A reader that looks at a data set while it is being built."""

import hashlib

from worlds import World

from schemas.errors import DatasetError
from schemas.manifest import MANIFEST, decode_manifest


class Reader:
    """Where a manifest is there, everything that it names must be there, as it says, and stay so. With `exact`
    contents are compared, too; without, as many bytes must be there."""

    def __init__(self, world: World, *, exact: bool) -> None:
        self.problems: list[str] = []
        self._world = world
        self._exact = exact
        self._seen: bytes | None = None

    def look(self) -> None:
        data = self._world.read(MANIFEST)
        if self.problems or (data is None and self._seen is None):
            return
        if self._seen not in (None, data):
            self.problems.append("a reader saw the manifest change")
            return
        if data is not None:
            self._check(data)
            self._seen = data

    def _check(self, data: bytes) -> None:
        try:
            manifest = decode_manifest(data, MANIFEST)
        except DatasetError as error:
            self.problems.append(f"a reader saw a manifest that is none: {error}")
            return
        holdout = manifest.holdout.shards if manifest.holdout else []
        for file in [*manifest.shards, *holdout, *manifest.rejects.files]:
            found = self._world.read(file.name)
            if found is None or len(found) != file.bytes:
                self.problems.append(f"a reader saw a manifest without {file.name}")
            elif self._exact and hashlib.sha256(found).hexdigest() != file.sha256:
                self.problems.append(f"a reader saw another {file.name}")
