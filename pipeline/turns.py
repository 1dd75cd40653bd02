"""The assistant turns of a block: how many are trained, and how many of those end in a token that ends a turn.

All of it is read off the ids and the channels that go into the shard, with the table of the build's loss policy: an
end token that the mask or the policy leaves out is missed here as it would be in training.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from itertools import groupby

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.chat.formatter import Tokens, Turn
from schemas.channels import LEGAL, Part, Role
from schemas.manifest import Count, Record, TokenId, TurnCounts, add_turns

EXAMPLES = 3
"""So many turns without an end are kept of each source."""

SHOWN_IDS = 4

_BYTES = np.arange(256)
GENERATED: npt.NDArray[np.bool_] = LEGAL & (_BYTES & 7 == Role.ASSISTANT) & (_BYTES >> 3 & 7 != Part.TEMPLATE)
"""bool[256]: the channels of what an assistant writes itself."""
IS_TEXT: npt.NDArray[np.bool_] = _BYTES & 7 == Role.TEXT
"""bool[256]: the channels of plain texts, which have no turns."""


class OpenTurn(Record):
    """A turn whose last trained token ends no turn: the last ids that are trained, and the first of what follows."""

    source: Count
    position: Count
    message: Count
    trained_ids: tuple[TokenId, ...]
    following_ids: tuple[TokenId, ...]


class TurnAudit(Record):
    """Counts by source, its index as a string, and the first turns of each source that have no end."""

    counts: dict[str, TurnCounts] = Field(default_factory=dict)
    open_turns: tuple[OpenTurn, ...] = ()


def audit_turns(
    documents: Iterable[tuple[int, int, Tokens]], trained: npt.NDArray[np.bool_], end_ids: Collection[int]
) -> TurnAudit:
    """Of documents, each with its source and position. `trained` is the loss policy's bool[256]."""
    table = trained & GENERATED
    counts: dict[int, Counter[str]] = {}
    open_turns: list[OpenTurn] = []
    for source, position, tokens in documents:
        for parts, stop in _turns_by_message(tokens):
            count = counts.setdefault(source, Counter())
            places = parts[0].start + np.flatnonzero(table[tokens.channel[parts[0].start : stop]])
            if parts[-1].end > len(tokens):
                count["cut"] += 1
            elif len(places):
                last = int(places[-1])
                terminated = int(tokens.input_ids[last]) in end_ids
                count["trained"] += 1
                count["terminated"] += terminated
                count["reasoning_dropped"] += any(turn.reasoning_dropped for turn in parts)
                count["not_served"] += not all(turn.served for turn in parts)
                if not terminated and count["trained"] - count["terminated"] <= EXAMPLES:
                    open_turns.append(_open_turn(source, position, tokens, parts[0], last + 1))
    by_source = {str(source): TurnCounts(**counts[source]) for source in sorted(counts)}
    return TurnAudit(counts=by_source, open_turns=tuple(open_turns))


def _turns_by_message(tokens: Tokens) -> Iterator[tuple[list[Turn], int]]:
    """The parts of each message's turn (a template may mark several), and where the next turn or the document's end
    is: what is trained up to there is the turn's, also where the mask runs over its end."""
    turns = [list(parts) for _, parts in groupby(tokens.turns, key=lambda turn: turn.message)]
    stops = [*(parts[0].start for parts in turns[1:]), len(tokens)]
    return zip(turns, stops, strict=False)  # without turns there is one stop


def _open_turn(source: int, position: int, tokens: Tokens, first: Turn, after: int) -> OpenTurn:
    ids = tokens.input_ids
    return OpenTurn(
        source=source,
        position=position,
        message=first.message,
        trained_ids=tuple(ids[max(first.start, after - SHOWN_IDS) : after].tolist()),
        following_ids=tuple(ids[after : after + SHOWN_IDS].tolist()),
    )


def add_audits(audits: Iterable[TurnAudit]) -> TurnAudit:
    """The sums, and the first of the examples of each source, in the order of the audits."""
    counts: dict[str, list[TurnCounts]] = {}
    open_turns: dict[int, list[OpenTurn]] = {}
    for audit in audits:
        for source, count in audit.counts.items():
            counts.setdefault(source, []).append(count)
        for turn in audit.open_turns:
            open_turns.setdefault(turn.source, []).append(turn)
    return TurnAudit(
        counts={source: add_turns(counts[source]) for source in sorted(counts, key=int)},
        open_turns=tuple(turn for source in sorted(open_turns) for turn in open_turns[source][:EXAMPLES]),
    )


def merge_audits(one: TurnAudit, other: TurnAudit) -> TurnAudit:
    """Of two parts of one block: the examples are the first of both in the order of the rows."""
    both = add_audits([one, other])
    turns = sorted((*one.open_turns, *other.open_turns), key=lambda turn: (turn.source, turn.position, turn.message))
    by_source = groupby(turns, key=lambda turn: turn.source)
    return TurnAudit(counts=both.counts, open_turns=tuple(turn for _, some in by_source for turn in [*some][:EXAMPLES]))
