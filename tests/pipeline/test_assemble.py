"""Packs hold the documents' tokens in the order of the plan, and padding after them."""

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from pipeline.assemble import PackSettings, pack_documents
from pipeline.blocks import BlockKey
from pipeline.pack import order_packs, pack_lengths
from pipeline.token_block import TokenBlock
from schemas.shard import Packs

PAD_ID = 77


def make_block(rng: np.random.Generator, documents: int, seq_len: int, *, weights: bool) -> TokenBlock:
    lengths = rng.integers(1, seq_len + 1, documents)
    tokens = int(lengths.sum())
    return TokenBlock(
        key=BlockKey(3, 1, False),
        input_ids=rng.integers(0, 70, tokens).astype(np.int32),
        channel=rng.integers(1, 256, tokens).astype(np.uint8),
        weight=rng.random(tokens).astype(np.float32) if weights else None,
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
        sources=rng.integers(0, 3, documents).astype(np.int32),
        positions=rng.integers(0, 2**40, documents),
        pieces=rng.integers(0, 3, documents).astype(np.int32),
    )


def slow_packs(block: TokenBlock, seq_len: int, seed: int) -> list[dict[str, list[Any]]]:
    """Each pack as lists, token by token."""
    lengths = block.lengths
    plan = pack_lengths(lengths, seq_len)
    packs = []
    for number in order_packs(seed, block.key.unit, block.key.block, len(plan)):
        documents = plan.documents[plan.offsets[number] : plan.offsets[number + 1]].tolist()
        spans = [block.span(each) for each in documents]
        tokens = [token for span in spans for token in range(span.start, span.stop)]
        channels = np.concatenate([block.channels_of(each) for each in documents]).tolist()
        room = seq_len - len(tokens)
        packs.append(
            {
                "input_ids": [*block.input_ids[tokens].tolist(), *[PAD_ID] * room],
                "channel": [*channels, *[0] * room],
                "weight": [] if block.weight is None else [*block.weight[tokens].tolist(), *[0.0] * room],
                "doc_lengths": lengths[documents].tolist(),
                "doc_source": block.sources[documents].tolist(),
                "doc_position": block.positions[documents].tolist(),
                "doc_piece": block.pieces[documents].tolist(),
            }
        )
    return packs


def as_lists(packs: Packs) -> list[dict[str, list[Any]]]:
    found = []
    for pack in range(len(packs)):
        of_tokens = {name: getattr(packs, name)[pack].tolist() for name in ("input_ids", "channel")}
        weight = [] if packs.weight is None else packs.weight[pack].tolist()
        span = packs.documents(pack)
        names = ("doc_lengths", "doc_source", "doc_position", "doc_piece")
        found.append({**of_tokens, "weight": weight, **{name: getattr(packs, name)[span].tolist() for name in names}})
    return found


@given(
    rng_seed=st.integers(0, 2**32),
    documents=st.integers(1, 40),
    seq_len=st.integers(1, 30),
    seed=st.integers(0, 5),
    weights=st.booleans(),
)
def test_packs_are_those_made_token_by_token(
    rng_seed: int, documents: int, seq_len: int, seed: int, weights: bool
) -> None:
    block = make_block(np.random.default_rng(rng_seed), documents, seq_len, weights=weights)
    packed = pack_documents(block, PackSettings(seq_len, PAD_ID, seed, 0.0, ("a", "b", "c")))
    assert packed.holdout is None
    assert packed.packs is not None
    assert as_lists(packed.packs) == slow_packs(block, seq_len, seed)


def test_held_out_documents_are_packed_apart() -> None:
    block = make_block(np.random.default_rng(0), 200, 16, weights=False)
    packed = pack_documents(block, PackSettings(16, PAD_ID, 0, 0.3, ("a", "b", "c")))
    places: list[npt.NDArray[Any]] = []
    for packs in (packed.packs, packed.holdout):
        assert packs is not None
        places.append(packs.doc_position)
    assert len(places[0]) > len(places[1]) > 20
    assert sorted(np.concatenate(places).tolist()) == sorted(block.positions.tolist())


def test_a_block_without_documents_has_no_packs() -> None:
    block = make_block(np.random.default_rng(0), 0, 16, weights=False)
    packed = pack_documents(block, PackSettings(16, PAD_ID, 0, 0.0, ("a",)))
    assert (packed.packs, packed.holdout) == (None, None)
