"""Nothing that a step makes grows with the square of seq_len. The tensors are fake, so that lengths can be real."""

import pytest
import torch
from document_rows import rows_of
from live_bytes import LiveBytes
from torch._subclasses.fake_tensor import FakeTensorMode

from train import attention
from train.architecture import Architecture
from train.attention import Kernel, isolate
from train.flex import make_block_mask
from train.loss import Trained
from train.model import Decoder
from train.recompute import recompute_activations
from train.varlen import causal_varlen, document_by_document

SHAPE = Architecture(
    model_type="qwen3",
    hidden_size=64,
    intermediate_size=192,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    sliding_window=4096,
    layer_types=("full_attention", "sliding_attention"),
    vocab_size=500,
)


def peak_of_step(seq_len: int, kernel: Kernel) -> int:
    """Of forward and backward, with full checkpointing, beyond weights and gradients; every token is trained."""
    with FakeTensorMode():
        model = Decoder(SHAPE)
        for block in model.layers:
            recompute_activations(block, "full")
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        ids = torch.zeros(1, seq_len, dtype=torch.int64)
        trained = Trained(ids[0], ids[0], torch.zeros(seq_len, dtype=torch.float64))
        with LiveBytes() as live:
            isolation = isolate(ids, torch.zeros(2, dtype=torch.int32), kernel)
            model(ids, ids, isolation, trained)[0].backward()
    return live.peak


def growth(kernel: Kernel) -> float:
    """1: what the second 16k tokens take is what the first 16k take. 2: it is twice that, and so on."""
    peaks = [peak_of_step(seq_len, kernel) for seq_len in (16_384, 32_768, 65_536)]
    return (peaks[2] - peaks[1]) / (peaks[1] - peaks[0]) / 2


def test_memory_grows_linearly_with_the_kernel_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask would be seen."""
    assert growth("sdpa") > 1.5
    monkeypatch.setattr(attention, "document_by_document", causal_varlen)
    assert growth("varlen") == pytest.approx(1, rel=0.02)


def test_the_blocks_of_flex_are_few() -> None:
    """For 128k tokens there are 1,024 x 1,024 of them."""
    _, document_ids, _ = rows_of([[100_000, 31_072]], 131_072)
    with LiveBytes() as live:
        make_block_mask(document_ids, 4096)
    assert live.peak < 64 * 2**20


def test_a_window_on_a_cpu_needs_no_mask_of_its_document() -> None:
    query = torch.zeros(16_384, 1, 8)
    cu_seqlens = torch.tensor([0, 16_384], dtype=torch.int32)
    with LiveBytes() as live:
        document_by_document(query, query, query, cu_seqlens, 16_384, 256)
    assert live.peak < 16 * 2**20
