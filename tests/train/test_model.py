"""Documents of a pack cannot see each other, and the decoder is Llama."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from train.batch import number_tokens
from train.config import ModelConfig
from train.model import Decoder

CONFIG = ModelConfig(
    hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
)
VOCAB_SIZE = 50
LENGTHS = [5, 1, 7, 2]  # and a padding of 5


@pytest.fixture
def model() -> Decoder:
    torch.manual_seed(0)
    return Decoder(CONFIG, VOCAB_SIZE).double()


def pack_inputs(lengths: Sequence[int], seq_len: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(0, VOCAB_SIZE, (1, seq_len), generator=generator)
    position_ids, document_ids = map(torch.from_numpy, number_tokens(torch.tensor(lengths).numpy(), seq_len))
    return input_ids, position_ids[None], document_ids[None]


def test_changing_one_document_moves_no_other(model: Decoder) -> None:
    input_ids, position_ids, document_ids = pack_inputs(LENGTHS, 20)
    before = model(input_ids, position_ids, document_ids)
    for changed in range(len(LENGTHS) + 1):
        inside = document_ids == changed
        other_ids = torch.where(inside, (input_ids + 1) % VOCAB_SIZE, input_ids)
        after = model(other_ids, position_ids, document_ids)
        assert torch.equal(before[~inside], after[~inside])
        assert not torch.isclose(before[inside], after[inside]).all(dim=-1).any()


def test_a_token_sees_what_is_before_it_in_its_document_and_nothing_later(model: Decoder) -> None:
    input_ids, position_ids, document_ids = pack_inputs([20], 20)
    before = model(input_ids, position_ids, document_ids)
    input_ids[0, 8] = (input_ids[0, 8] + 1) % VOCAB_SIZE
    moved = (model(input_ids, position_ids, document_ids) != before).any(dim=-1)[0]
    assert moved.tolist() == [place >= 8 for place in range(20)]


def test_packed_equals_one_by_one(model: Decoder) -> None:
    input_ids, position_ids, document_ids = pack_inputs(LENGTHS, 20)
    packed = model(input_ids, position_ids, document_ids)
    for document in range(len(LENGTHS)):
        inside = document_ids[0] == document
        ids = input_ids[:, inside]
        alone = model(ids, torch.arange(ids.shape[1])[None], torch.zeros_like(ids))
        torch.testing.assert_close(packed[:, inside], alone, rtol=1e-12, atol=1e-12)


def test_it_is_llama() -> None:
    """The same weights under the same names give the logits of transformers."""
    torch.manual_seed(0)
    model = Decoder(CONFIG, VOCAB_SIZE)
    llama = LlamaForCausalLM(LlamaConfig(**CONFIG.model_dump() | {"vocab_size": VOCAB_SIZE}))
    names = {
        name if name.startswith("lm_head") else f"model.{name}": value for name, value in model.state_dict().items()
    }
    llama.load_state_dict(names)
    input_ids, position_ids, document_ids = pack_inputs([20], 20)
    with torch.no_grad():
        torch.testing.assert_close(
            model(input_ids, position_ids, document_ids), llama(input_ids).logits, rtol=1e-5, atol=1e-5
        )
