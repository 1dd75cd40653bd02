"""The audit of assistant turns over columns; its reference is `audit_turns`."""

from collections.abc import Collection

import numpy as np

from pipeline.columnar.documents import Indices
from pipeline.columnar.rules import Kept
from pipeline.columnar.tokens import DocumentTokens
from pipeline.turns import EXAMPLES, SHOWN_IDS, OpenTurn, TurnAudit
from schemas.manifest import TurnCounts

_COUNTED = ("trained", "terminated", "reasoning_dropped", "not_served", "cut")


def audit_columns(
    tokens: DocumentTokens,
    kept: Kept,
    places: tuple[Indices, Indices],
    trained: Indices,
    end_ids: Collection[int],
) -> TurnAudit:
    """`places` are the source and position of each kept document, `trained` the tokens of generated regions that the
    loss policy trains."""
    table = tokens.table
    document, start, stop, following, at, length_end = _turns(tokens, kept)
    last = np.searchsorted(trained, following) - 1
    found = trained[np.maximum(last, 0)] if len(trained) else np.zeros(len(last), np.int64)
    is_cut = stop > length_end
    is_trained = (last >= 0) & (found >= start) & ~is_cut if len(trained) else np.zeros(len(last), np.bool_)
    is_end = np.isin(tokens.input_ids[found], list(end_ids)) if len(found) else is_cut
    flags = {
        "trained": is_trained,
        "terminated": is_trained & is_end,
        "reasoning_dropped": is_trained & table.turn_dropped[at],
        "not_served": is_trained & ~table.turn_served[at],
        "cut": is_cut,
    }
    sources, positions = (column[document] for column in places)
    is_open = np.flatnonzero(is_trained & ~is_end)
    turns: list[OpenTurn] = []
    for source in np.unique(sources[is_open]).tolist():
        for turn in is_open[sources[is_open] == source][:EXAMPLES].tolist():
            after, end = int(found[turn]) + 1, int(length_end[turn])
            turns.append(
                OpenTurn(
                    source=source,
                    position=int(positions[turn]),
                    message=int(table.turn_message[at[turn]]),
                    trained_ids=tuple(tokens.input_ids[max(int(start[turn]), after - SHOWN_IDS) : after].tolist()),
                    following_ids=tuple(tokens.input_ids[after : min(after + SHOWN_IDS, end)].tolist()),
                )
            )
    counts = {
        str(source): TurnCounts(**{name: int((flags[name] & (sources == source)).sum()) for name in _COUNTED})
        for source in np.unique(sources).tolist()
    }
    return TurnAudit(counts=counts, open_turns=tuple(turns))


def _turns(tokens: DocumentTokens, kept: Kept) -> tuple[Indices, ...]:
    """The turns that begin in kept tokens: each one's kept document, its tokens [start, stop), where the next turn or
    the document's end is, its place in the table, the document's end."""
    of_document = np.full(len(tokens), -1, np.int64)
    of_document[kept.of] = np.arange(len(kept.of))
    document = of_document[tokens.turn_document]
    ends = kept.start + kept.length
    chosen = np.flatnonzero((document >= 0) & (tokens.turn_start < ends[document] if len(ends) else document >= 0))
    document, start = document[chosen], tokens.turn_start[chosen]
    following = np.append(start[1:], 0)
    is_last = np.append(document[1:] != document[:-1], True) if len(document) else np.zeros(0, np.bool_)
    following = np.where(is_last, ends[document], following[: len(document)]) if len(document) else start
    return document, start, tokens.turn_stop[chosen], following, tokens.turn_at[chosen], ends[document]
