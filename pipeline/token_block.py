"""The tokens of a block's documents."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.blocks import BlockKey
from pipeline.encoders.compare import EngineDifference
from pipeline.turns import TurnAudit
from schemas.channels import NO_LOSS
from schemas.manifest import Certificate
from schemas.rejects import Reject


@dataclass(slots=True)
class TokenBlock:
    """T tokens, D documents in the order of their rows; document d has tokens [starts[d], starts[d] + lengths[d]),
    which lie anywhere. Documents of a text that was split share a token. The first token of a document is never
    trained, whatever its channel says here."""

    key: BlockKey
    input_ids: npt.NDArray[np.int32]  # [T]
    channel: npt.NDArray[np.uint8]  # [T]
    weight: npt.NDArray[np.float32] | None  # [T]
    starts: npt.NDArray[np.int64]  # [D]
    lengths: npt.NDArray[np.int64]  # [D]
    sources: npt.NDArray[np.int32]  # [D]
    positions: npt.NDArray[np.int64]  # [D]
    pieces: npt.NDArray[np.int32]  # [D]
    rejects: list[Reject] = field(default_factory=list)
    rows: dict[int, int] = field(default_factory=dict)  # rows read, by source
    bytes: int = 0
    truncated: int = 0
    straddling: int = 0
    turns: TurnAudit = field(default_factory=TurnAudit)
    certificate: Certificate | None = None
    difference: EngineDifference | None = None

    def __len__(self) -> int:
        return len(self.sources)

    def channels_of(self, document: int) -> npt.NDArray[np.uint8]:
        """uint8[n], the first token's bit 7 set."""
        channel = self.channel[self.span(document)].copy()
        channel[:1] |= NO_LOSS
        return channel

    def span(self, document: int) -> slice:
        start = int(self.starts[document])
        return slice(start, start + int(self.lengths[document]))
