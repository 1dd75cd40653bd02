"""Documents of a pack cannot see each other, and packing moves no logit."""

from collections.abc import Sequence

import pytest
import torch
from document_rows import rows_of
from torch import Tensor

from train.architecture import Architecture
from train.attention import Isolation, isolate
from train.model import Decoder
from train.weights import initialise

VOCAB_SIZE, SEQ_LEN = 50, 20
LENGTHS = [5, 1, 7, 2]  # and a padding of 5


@pytest.fixture(params=["llama", "qwen3"])
def model(request: pytest.FixtureRequest) -> Decoder:
    shape = Architecture(
        model_type=request.param,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCAB_SIZE,
    )
    model = Decoder(shape).double()
    initialise(model, seed=0)
    return model


def pack_inputs(lengths: Sequence[int]) -> tuple[Tensor, Tensor, Isolation, Tensor]:
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(0, VOCAB_SIZE, (1, SEQ_LEN), generator=generator)
    position_ids, document_ids, cu_seqlens = rows_of([list(lengths)], SEQ_LEN)
    return input_ids, position_ids, isolate(document_ids, cu_seqlens, "sdpa"), document_ids


def one_document(length: int) -> Isolation:
    return isolate(torch.zeros(1, length, dtype=torch.int64), torch.tensor([0, length], dtype=torch.int32), "sdpa")


def test_changing_one_document_moves_no_other(model: Decoder) -> None:
    input_ids, position_ids, isolation, document_ids = pack_inputs(LENGTHS)
    before = model.logits(input_ids, position_ids, isolation)
    for changed in range(len(LENGTHS) + 1):
        inside = document_ids == changed
        other_ids = torch.where(inside, (input_ids + 1) % VOCAB_SIZE, input_ids)
        after = model.logits(other_ids, position_ids, isolation)
        assert torch.equal(before[~inside], after[~inside])
        assert not torch.isclose(before[inside], after[inside]).all(dim=-1).any()


def test_a_token_sees_what_is_before_it_in_its_document_and_nothing_later(model: Decoder) -> None:
    input_ids, position_ids, isolation, _ = pack_inputs([SEQ_LEN])
    before = model.logits(input_ids, position_ids, isolation)
    input_ids[0, 8] = (input_ids[0, 8] + 1) % VOCAB_SIZE
    moved = (model.logits(input_ids, position_ids, isolation) != before).any(dim=-1)[0]
    assert moved.tolist() == [place >= 8 for place in range(SEQ_LEN)]


def test_packed_equals_one_by_one(model: Decoder) -> None:
    input_ids, position_ids, isolation, document_ids = pack_inputs(LENGTHS)
    packed = model.logits(input_ids, position_ids, isolation)
    for document in range(len(LENGTHS)):
        inside = document_ids[0] == document
        ids = input_ids[:, inside]
        alone = model.logits(ids, torch.arange(ids.shape[1])[None], one_document(ids.shape[1]))
        torch.testing.assert_close(packed[:, inside], alone, rtol=1e-12, atol=1e-12)
