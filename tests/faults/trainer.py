"""A data set as the trainer reads it, without a model."""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

from schemas.errors import DatasetError
from train.packs import ShardedPacks


def read_packs(url: str, profile: str | None, cache: Path) -> Callable[[], int]:
    """A task for a process: reads every pack and prints a digest of the tokens, or why there is one that cannot be."""

    def read() -> int:
        digest = hashlib.sha256()
        try:
            for holdout in (False, True):
                packs = ShardedPacks(url, holdout, profile, cache=cache)
                for number in range(len(packs)):
                    digest.update(packs[number].input_ids.tobytes())
        except DatasetError as error:
            print(error, file=sys.stderr)
            return 1
        print(digest.hexdigest())
        return 0

    return read
