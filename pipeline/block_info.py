"""What is known of a finished block: everything that the manifest needs, and nothing that a retry could change."""

import hashlib
import posixpath
import re
from dataclasses import fields
from datetime import datetime

from pydantic import AwareDatetime

from pipeline.blocks import BlockKey, SourceFile, Unit
from pipeline.encoders.compare import EngineDifference
from pipeline.turns import TurnAudit
from schemas.errors import DatasetError
from schemas.manifest import Certificate, Count, Histogram, Record, RejectFile, Sha256, ShardFile
from schemas.recipe import canonical_sha256
from schemas.rejects import Reason
from schemas.store import Folder

_PUBLISHED = "published"
_STATE = re.compile(rb'\{"sha256":"([0-9a-f]{64})",(.*)', re.DOTALL)


class BlockInfo(Record):
    """`unit_sha256` tells whether the unit is still the one that the block was read from. Rows and channels are by
    source, as strings. The certificate is None where nothing was compared in the run; the difference is the first text
    of which the fast engine made other ids than the reference."""

    unit: Count
    block: Count
    last: bool
    unit_sha256: Sha256
    input_bytes: Count
    rows: dict[str, Count]
    rejects: dict[Reason, Count]
    channels: dict[str, Histogram]
    holdout_channels: Histogram
    truncated: Count
    straddling: Count
    turns: TurnAudit
    certificate: Certificate | None
    difference: EngineDifference | None
    shard: ShardFile | None
    holdout: ShardFile | None
    reject_file: RejectFile | None

    @property
    def key(self) -> BlockKey:
        return BlockKey(self.unit, self.block, self.last)

    def without_certificate(self) -> "BlockInfo":
        return self.model_copy(update={"certificate": None})

    @property
    def files(self) -> list[ShardFile | RejectFile]:
        return [file for file in (self.shard, self.holdout, self.reject_file) if file is not None]


class BlockState(Record):
    """A finished block as it stands in `state/`: its facts, and what the run measured."""

    info: BlockInfo
    process: str  # HOST:PID of the worker
    peak_memory: Count  # bytes resident in the worker at its peak so far
    begun: AwareDatetime  # when its reading began
    finished: AwareDatetime  # when its files were there


def encode_state(state: BlockState) -> bytes:
    """JSON, with the sha256 of all the rest in front: a count that was damaged would be published."""
    data = state.model_dump_json().encode()
    return b'{"sha256":"%s",%s' % (hashlib.sha256(data).hexdigest().encode(), data[1:])


def decode_state(data: bytes) -> BlockState:
    """Raises ValueError for what is not as it was written."""
    found = _STATE.fullmatch(data)
    if found is None or hashlib.sha256(b"{" + found[2]).hexdigest().encode() != found[1]:
        raise ValueError("a damaged state")
    return BlockState.model_validate_json(b"{" + found[2])


def unit_sha256(unit: Unit) -> str:
    names = [field.name for field in fields(SourceFile) if field.name not in ("place", "profile")]
    stretches = [
        [part.source, part.start, part.end, {name: getattr(part.file, name) for name in names}]
        for part in unit.stretches
    ]
    return canonical_sha256({"unit": unit.index, "limit": unit.limit, "stretches": stretches})


class StateStore:
    """`state/RECIPE_ID-ENGINE/` of an output folder: one small file a finished block, and a mark for each begun one.
    What one engine has made is not mixed with what another makes, nor one generation's blocks with another's, which
    have the same numbers: a later one's folder ends in its tag."""

    def __init__(self, output: Folder, recipe_id: str, engine: str, generation_tag: str = "") -> None:
        self.output = output
        self.folder = posixpath.join("state", "-".join(filter(None, (recipe_id, engine, generation_tag))))

    def begin(self, key: BlockKey, begun: datetime) -> None:
        self.output.write(posixpath.join(self.folder, f"{key.name}.begun"), begun.isoformat().encode())

    def begun(self, key: BlockKey) -> datetime | None:
        """When the block was begun, by the latest attempt; None where its mark is gone or damaged."""
        try:
            return _parse_time(self.output.read(posixpath.join(self.folder, f"{key.name}.begun")))
        except FileNotFoundError:
            return None

    def finish(self, state: BlockState) -> None:
        """Raises DatasetError where an earlier attempt at this block came out differently. Its certificate may have:
        that attempt may have been of a run that was certified by another oracle, or not at all. An attempt of which
        the engine was wrong counts as none."""
        earlier = self.load(state.info.key)
        if earlier is not None and earlier.info.unit_sha256 == state.info.unit_sha256:
            _check_attempts(earlier.info, state.info)
        self.output.write(posixpath.join(self.folder, f"{state.info.key.name}.json"), encode_state(state))

    def load(self, key: BlockKey) -> BlockState | None:
        """None where the block is not finished."""
        return self.read(f"{key.name}.json")

    def read(self, name: str) -> BlockState | None:
        """The state in a file of this folder; a file that is damaged, or no block's state, counts as none."""
        try:
            return decode_state(self.output.read(posixpath.join(self.folder, name)))
        except (FileNotFoundError, ValueError):
            return None

    def load_whole(self, key: BlockKey, unit: Unit, *, by_hash: bool = False) -> BlockState | None:
        """The state of a block of this very unit whose files are there, each with its size, or its sha256."""
        state = self.load(key)
        if state is None or state.info.key.name != key.name or state.info.unit_sha256 != unit_sha256(unit):
            return None
        return state if all(_is_whole(self.output, file, by_hash) for file in state.info.files) else None

    def mark_published(self, at: datetime) -> None:
        self.output.write(posixpath.join(self.folder, _PUBLISHED), at.isoformat().encode())

    def published(self) -> datetime | None:
        """When the manifest was written, or seen to be there, by the latest run that came to that. None where none did,
        or where the mark of it is damaged."""
        try:
            return _parse_time(self.output.read(posixpath.join(self.folder, _PUBLISHED)))
        except FileNotFoundError:
            return None

    def names(self) -> list[str]:
        return [posixpath.basename(name) for name in self.output.names(self.folder)]


def _parse_time(data: bytes) -> datetime | None:
    """None for what is no time and zone; a time that was cut short may have lost the zone alone."""
    try:
        found = datetime.fromisoformat(data.decode())
    except ValueError:
        return None
    return found if found.tzinfo else None


def _is_whole(output: Folder, file: ShardFile | RejectFile, by_hash: bool) -> bool:
    return output.size(file.name) == file.bytes and (not by_hash or output.sha256(file.name) == file.sha256)


def _check_attempts(earlier: BlockInfo, info: BlockInfo) -> None:
    if earlier.difference is None and earlier.without_certificate() != info.without_certificate():
        raise DatasetError(different_attempts(info))


def different_attempts(info: BlockInfo) -> str:
    return (
        f"block {info.unit}-{info.block} came out differently on two attempts; something in the recipe is not "
        "deterministic: look at custom transforms, then remove the output folder's state/ and build again"
    )
