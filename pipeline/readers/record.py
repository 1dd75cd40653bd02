"""What every format reader yields: a row's place and size, and the row itself once it is asked for."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Record(NamedTuple):
    """`position` as the shard's `doc_position`; `size` in uncompressed bytes of input. `build` makes the row,
    or raises RejectRow; a block that is skipped never calls it."""

    position: int
    size: int
    build: Callable[[], dict[str, Any]]
