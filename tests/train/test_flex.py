"""FlexAttention without a GPU: its mask is compared pair by pair and with torch's own, and its operation runs, slowly,
forward and backward, as it is traced for the compiler."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from document_rows import rows_of
from functorch.compile import min_cut_rematerialization_partition
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch.fx import GraphModule
from torch.nn.attention import flex_attention as torch_flex

from train import flex
from train.architecture import Architecture
from train.attention import Kernel, attend, block_causal_mask, isolate
from train.flex import make_block_mask
from train.loss import Trained
from train.model import Decoder
from train.recompute import recompute_activations
from train.weights import initialise

LENGTHS = (1, 3, 50, 127, 128, 129, 256, 300)
BLOCKS = ("kv_num_blocks", "kv_indices", "q_num_blocks", "q_indices")


def random_rows(rows: int, seq_len: int, rng: random.Random) -> tuple[Tensor, Tensor, Tensor]:
    lengths = []
    for _ in range(rows):
        row: list[int] = []
        while sum(row) < seq_len:
            row.append(min(rng.choice(LENGTHS), seq_len - sum(row)))
        lengths.append(row)
    return rows_of(lengths, seq_len)


@pytest.mark.parametrize("window", [None, 1, 100, 128, 129, 200, 255, 256, 257])
@pytest.mark.parametrize("seq_len", [128, 300, 1024])
def test_the_mask_is_that_of_torch_which_looks_at_all_pairs(seq_len: int, window: int | None) -> None:
    _, document_ids, _ = random_rows(2, seq_len, random.Random(seq_len))
    mask = make_block_mask(document_ids, window)
    dense = torch_flex.create_mask(mask.mask_mod, 2, 1, seq_len, seq_len, device="cpu")
    assert torch.equal(dense, block_causal_mask(document_ids, window))
    expected = torch_flex.create_block_mask(mask.mask_mod, 2, None, seq_len, seq_len, device="cpu")
    assert (mask.shape, mask.BLOCK_SIZE) == (expected.shape, expected.BLOCK_SIZE)
    for name in (*BLOCKS, *(f"full_{name}" for name in BLOCKS)):
        found, wanted = getattr(mask, name), getattr(expected, name)
        assert found.dtype == wanted.dtype
        assert torch.equal(found, wanted), name


def test_blocks_that_see_nothing_and_blocks_that_see_all_are_told_apart() -> None:
    """And so the test above is not about masks that have one kind alone."""
    _, document_ids, _ = rows_of([[500, 524]], 1024)
    mask = make_block_mask(document_ids, 300)
    assert mask.full_kv_num_blocks is not None
    partial, full = int(mask.kv_num_blocks.sum()), int(mask.full_kv_num_blocks.sum())
    assert full > 0
    assert partial > 8  # those on the diagonal, and others
    assert partial + full < 8 * 9 // 2


@pytest.fixture
def without_inductor(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch refuses gradients on a CPU, for which it has no kernel; the operation itself has them."""
    monkeypatch.setattr(torch_flex, "_validate_device", lambda query, key, value: None)
    alone = torch.compile(torch_flex.flex_attention, dynamic=False, backend="aot_eager")
    monkeypatch.setattr(flex, "compile_alone", lambda: alone)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("window", [None, 70])
def test_it_sees_what_the_mask_lets_see(window: int | None, without_inductor: None) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, heads, 300, 8, generator=generator) for heads in (4, 2, 2))
    _, document_ids, cu_seqlens = random_rows(2, 300, random.Random(1))
    blocks, dense = (
        attend(query, key, value, isolate(document_ids, cu_seqlens, kernel).masks([window])[window])
        for kernel in ("flex", "sdpa")
    )
    torch.testing.assert_close(blocks, dense, rtol=1e-5, atol=1e-5)


SEQ_LEN, VOCAB_SIZE = 300, 50
SHAPE = Architecture(
    model_type="qwen2",
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    sliding_window=70,
    layer_types=("full_attention", "sliding_attention"),
    vocab_size=VOCAB_SIZE,
)
STEPS = ([130, 20, 100], [250, 50], [299, 1], [5] * 60)


def gradients(model: Decoder, kernel: Kernel) -> dict[str, Tensor]:
    """Those of all steps added up."""
    for lengths in STEPS:
        position_ids, document_ids, cu_seqlens = rows_of([lengths, lengths[::-1]], SEQ_LEN)
        input_ids = torch.arange(2 * SEQ_LEN).view(2, SEQ_LEN) * 7 % VOCAB_SIZE
        places = torch.arange(0, 2 * SEQ_LEN - 1, 3)
        weights = torch.full((len(places),), 0.01, dtype=torch.float64)
        trained = Trained(places, input_ids.flatten()[places + 1], weights)
        loss, _ = model(input_ids, position_ids, isolate(document_ids, cu_seqlens, kernel), trained)
        loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize(("mode", "compiled"), [("none", False), ("selective", True), ("full", True)])
def test_a_block_has_the_gradients_of_a_mask_and_is_compiled_once_a_window(
    mode: Any, compiled: bool, without_inductor: None
) -> None:
    """Whatever documents the next steps bring: layers of two windows, four steps, two graphs. `selective` keeps what
    attention gives, `full` computes it again."""
    ahead: list[GraphModule] = []
    back: list[GraphModule] = []
    backend = aot_autograd(
        fw_compiler=lambda graph, inputs: ahead.append(graph) or graph.forward,
        bw_compiler=lambda graph, inputs: back.append(graph) or graph.forward,
        partition_fn=min_cut_rematerialization_partition,
    )
    models = [Decoder(SHAPE), Decoder(SHAPE)]
    for model in models:
        initialise(model, seed=0)
    for block in models[0].layers:
        recompute_activations(block, mode)
        if compiled:
            block.forward = torch.compile(block.forward, fullgraph=True, backend=backend)
    found, expected = gradients(models[0], "flex"), gradients(models[1], "sdpa")
    assert len(ahead) == len(back) == (2 if compiled else 0)
    assert [count_attention(graph) for graph in ahead] == [1] * len(ahead)
    assert [count_attention(graph) for graph in back] == [int(mode == "full")] * len(back)
    assert found.keys() == expected.keys() == dict(models[0].named_parameters()).keys()
    for name, gradient in expected.items():
        assert gradient.norm() > 1e-6
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def count_attention(graph: GraphModule) -> int:
    return sum(node.target is torch.ops.higher_order.flex_attention for node in graph.graph.nodes)
