"""From the tokens of a block to its packs: a shard's worth of rows of `seq_len`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.blocks import BlockKey
from pipeline.encoders.compare import EngineDifference
from pipeline.holdout import is_held_out
from pipeline.pack import order_packs, pack_lengths
from pipeline.token_block import TokenBlock
from pipeline.turns import TurnAudit
from schemas.channels import NO_LOSS
from schemas.manifest import Certificate
from schemas.rejects import Reject
from schemas.shard import Packs

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(slots=True)
class PackedBlock:
    """The packs of a block, those of the holdout apart; None where there are no documents."""

    key: BlockKey
    packs: Packs | None
    holdout: Packs | None
    rejects: list[Reject] = field(default_factory=list)
    rows: dict[int, int] = field(default_factory=dict)
    bytes: int = 0
    truncated: int = 0
    straddling: int = 0
    turns: TurnAudit = field(default_factory=TurnAudit)
    certificate: Certificate | None = None
    difference: EngineDifference | None = None


@dataclass(frozen=True, slots=True)
class PackSettings:
    seq_len: int
    pad_id: int
    seed: int
    holdout: float
    urls: Mapping[int, str]  # of the sources, by index: they choose the holdout


def pack_documents(block: TokenBlock, settings: PackSettings) -> PackedBlock:
    held_out = _held_out(block, settings)
    return PackedBlock(
        key=block.key,
        packs=_pack(block, np.flatnonzero(~held_out), settings),
        holdout=_pack(block, np.flatnonzero(held_out), settings),
        rejects=block.rejects,
        rows=block.rows,
        bytes=block.bytes,
        truncated=block.truncated,
        straddling=block.straddling,
        turns=block.turns,
        certificate=block.certificate,
        difference=block.difference,
    )


def _held_out(block: TokenBlock, settings: PackSettings) -> npt.NDArray[np.bool_]:
    """bool[D]"""
    if not settings.holdout:
        return np.zeros(len(block), np.bool_)
    places = zip(block.sources.tolist(), block.positions.tolist(), strict=True)
    chosen = [is_held_out(settings.urls[source], position, settings.holdout) for source, position in places]
    return np.array(chosen, np.bool_)


def _pack(block: TokenBlock, chosen: npt.NDArray[np.int64], settings: PackSettings) -> Packs | None:
    if not len(chosen):
        return None
    plan = pack_lengths(block.lengths[chosen], settings.seq_len)
    plan = plan.in_order(order_packs(settings.seed, block.key.unit, block.key.block, len(plan)))
    return _copy(block, chosen[plan.documents], plan.offsets, settings)


def _copy(
    block: TokenBlock, documents: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64], settings: PackSettings
) -> Packs:
    """Pack p gets documents[offsets[p] : offsets[p + 1]]."""
    places = _Places(block.starts[documents], block.lengths[documents], offsets, settings.seq_len)
    channel = places.fill(block.channel, 0)
    channel.reshape(-1)[places.starts] |= np.uint8(NO_LOSS)
    weight = block.weight
    return Packs(
        input_ids=places.fill(block.input_ids, settings.pad_id),
        channel=channel,
        doc_offsets=offsets.astype(np.int32),
        doc_lengths=block.lengths[documents].astype(np.int32),
        doc_source=block.sources[documents],
        doc_position=block.positions[documents],
        doc_piece=block.pieces[documents],
        weight=None if weight is None else places.fill(weight, 0),
    )


class _Places:
    """What follows what in the packs: documents, and at the end of a pack its padding."""

    def __init__(
        self,
        starts: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
        offsets: npt.NDArray[np.int64],
        seq_len: int,
    ) -> None:
        """Where the tokens of each document begin, and how many they are; `starts` of this object is where those of
        each document begin in the packs."""
        ends = np.concatenate([[0], np.cumsum(lengths)])
        rooms = seq_len - np.diff(ends[offsets])
        self.starts = ends[:-1] + np.repeat(np.cumsum(rooms) - rooms, np.diff(offsets))
        self._slices = list(map(slice, starts.tolist(), (starts + lengths).tolist()))
        self._offsets = offsets.tolist()
        self._rooms = rooms.tolist()
        self._seq_len = seq_len

    def fill(self, values: npt.NDArray[Scalar], padding: int) -> npt.NDArray[Scalar]:
        """[P, seq_len]: the values of the documents' tokens, copied a document at a time."""
        pad = np.full(self._seq_len, padding, values.dtype).data
        documents = list(map(values.data.__getitem__, self._slices))
        pieces: list[memoryview] = []
        for pack, room in enumerate(self._rooms):
            pieces += documents[self._offsets[pack] : self._offsets[pack + 1]]
            if room:
                pieces.append(pad[:room])
        return np.frombuffer(bytearray().join(pieces), values.dtype).reshape(-1, self._seq_len)
