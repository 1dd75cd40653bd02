"""Packs of made-up tokens, with the lengths and trained shares of real chats."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from schemas.channels import Part, Role, pack_channel
from schemas.policy import DEFAULT_POLICY
from train.batch import Entry
from train.packs import Pack

RECORDED = Path(__file__).with_name("documents.json")
PROMPT = pack_channel(Role.USER, Part.BODY)
ANSWER = pack_channel(Role.ASSISTANT, Part.BODY, last_turn=True)


def recorded_documents() -> list[tuple[int, int]]:
    """(tokens, trained tokens) of each."""
    documents: list[tuple[int, int]] = [tuple(pair) for pair in json.loads(RECORDED.read_text("utf-8"))["documents"]]
    return documents


def make_entries(seed: int, seq_len: int, vocab_size: int) -> Iterator[Entry]:
    """Packs without end, each full to the last place: its last document is cut."""
    rng = np.random.default_rng(seed)
    documents = recorded_documents()
    table = DEFAULT_POLICY.table()
    while True:
        lengths: list[int] = []
        channel = np.full(seq_len, PROMPT, dtype=np.uint8)
        while (start := sum(lengths)) < seq_len:
            tokens, trained = documents[rng.integers(len(documents))]
            channel[start + tokens - trained : start + tokens] = ANSWER
            lengths.append(min(tokens, seq_len - start))
        pack = Pack(
            input_ids=rng.integers(0, vocab_size, seq_len, dtype=np.int32),
            channel=channel,
            doc_lengths=np.array(lengths, dtype=np.int32),
            doc_source=np.zeros(len(lengths), dtype=np.int32),
            weight=None,
        )
        yield Entry(pack, table, first_group=0, by_source=False)
