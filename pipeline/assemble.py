"""From the tokens of a block to its packs: a shard's worth of rows of `seq_len`."""

from dataclasses import dataclass, field

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
    urls: tuple[str, ...]  # of the sources, by index: they choose the holdout


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
    lengths = block.lengths[chosen]
    plan = pack_lengths(lengths, settings.seq_len)
    count = len(plan.offsets) - 1
    order = order_packs(settings.seed, block.key.unit, block.key.block, count)
    packs = [chosen[plan.documents[plan.offsets[pack] : plan.offsets[pack + 1]]] for pack in order.tolist()]
    return _copy(block, packs, settings)


def _copy(block: TokenBlock, packs: list[npt.NDArray[np.int64]], settings: PackSettings) -> Packs:
    """Copy each document to its place, a slice at a time."""
    shape = (len(packs), settings.seq_len)
    input_ids = np.full(shape, settings.pad_id, np.int32)
    channel = np.zeros(shape, np.uint8)
    weight = None if block.weight is None else np.zeros(shape, np.float32)
    for row, documents in enumerate(packs):
        at = 0
        for document in documents.tolist():
            span = block.span(document)
            end = at + span.stop - span.start
            input_ids[row, at:end] = block.input_ids[span]
            channel[row, at:end] = block.channel[span]
            channel[row, at] |= NO_LOSS
            if weight is not None and block.weight is not None:
                weight[row, at:end] = block.weight[span]
            at = end
    order = np.concatenate(packs)
    return Packs(
        input_ids=input_ids,
        channel=channel,
        doc_offsets=np.cumsum([0, *map(len, packs)], dtype=np.int32),
        doc_lengths=block.lengths[order].astype(np.int32),
        doc_source=block.sources[order],
        doc_position=block.positions[order],
        doc_piece=block.pieces[order],
        weight=weight,
    )
