"""The shards of the steps that come, in the order of their first use, as far ahead as there is room for them."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from train.mixture import PackRef


class ShardRef(NamedTuple):
    """A shard: the index of its data set, and its index there."""

    dataset: int
    shard: int


@dataclass(frozen=True, slots=True)
class Reach:
    """What the steps that are looked at may have together. The first may have more: it has to be read."""

    steps: int
    packs: int
    shards: int
    bytes: int


@dataclass(frozen=True, slots=True)
class _Step:
    packs: int
    shards: tuple[ShardRef, ...]  # each once, in the order of their first use


class LookAhead:
    """A stretch of steps that moves on: the first is the one that is read, the last the farthest that is looked at.

    `bytes_of` says what a shard takes of the room, 0 where it takes none; only such as take some count as shards of the
    reach. Memory is O(steps of the stretch * shards of a step).
    """

    def __init__(
        self,
        steps: Iterable[Sequence[PackRef]],
        shard_of: Callable[[PackRef], ShardRef],
        bytes_of: Callable[[ShardRef], int],
        reach: Reach,
    ) -> None:
        self._coming = (_Step(len(packs), tuple(dict.fromkeys(map(shard_of, packs)))) for packs in steps)
        self._next = next(self._coming, None)
        self._bytes_of, self._reach = bytes_of, reach
        self._stretch: deque[_Step] = deque()
        self._uses: Counter[ShardRef] = Counter()  # steps of the stretch that use a shard, where there are any
        self._packs = 0
        self._sizes: dict[ShardRef, int] = {}  # of the shards that take room
        self._bytes = 0

    def move(self) -> list[ShardRef]:
        """The next step, which there must be, becomes the first. The shards that no step of the stretch uses now."""
        before = len(self._stretch)
        if before <= 1:
            self._enter()
        return self._leave() if before else []

    def look(self, steps: int) -> list[ShardRef]:
        """Look at so many steps more, or at as many as there are and the reach allows. The shards that are new."""
        found: list[ShardRef] = []
        for _ in range(steps):
            if self._next is None or not self._fits(self._next):
                break
            found += self._enter()
        return found

    def first(self, steps: int) -> list[ShardRef]:
        """The shards of the first steps."""
        return list(dict.fromkeys(shard for step in islice(self._stretch, steps) for shard in step.shards))

    def _fits(self, step: _Step) -> bool:
        sizes = [size for shard in step.shards if shard not in self._uses and (size := self._bytes_of(shard))]
        return (
            len(self._stretch) < self._reach.steps
            and self._packs + step.packs <= self._reach.packs
            and len(self._sizes) + len(sizes) <= self._reach.shards
            and self._bytes + sum(sizes) <= self._reach.bytes
        )

    def _enter(self) -> list[ShardRef]:
        """The shards that are new."""
        step, self._next = self._next, next(self._coming, None)
        assert step is not None
        new = [shard for shard in step.shards if shard not in self._uses]
        self._uses.update(step.shards)
        for shard in new:
            if size := self._bytes_of(shard):
                self._sizes[shard] = size
                self._bytes += size
        self._packs += step.packs
        self._stretch.append(step)
        return new

    def _leave(self) -> list[ShardRef]:
        step = self._stretch.popleft()
        self._packs -= step.packs
        self._uses.subtract(step.shards)
        gone = [shard for shard in step.shards if not self._uses[shard]]
        for shard in gone:
            del self._uses[shard]
            self._bytes -= self._sizes.pop(shard, 0)
        return gone
