"""The count of operations against torch's own counter, over models of transformers that know nothing of ours."""

from collections.abc import Sequence

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from train.architecture import Architecture
from train.flops import PEAKS, count_pairs, device_peak_flops, peak_flops, step_flops

SHAPES = {
    "grouped": Architecture(
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        vocab_size=101,
    ),
    "one key a query": Architecture(
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=37,
    ),
}


def counted(architecture: Architecture, doc_lengths: Sequence[int]) -> int:
    """Of a step of transformers over the documents one by one. The attention there computes all pairs: n * n."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size", "num_attention_heads", "head_dim")
    shape = {name: getattr(architecture, name) for name in (*names, "num_key_value_heads")}
    config = LlamaConfig(**shape, attn_implementation="eager", tie_word_embeddings=False)
    model = LlamaForCausalLM(config)
    with FlopCounterMode(display=False) as counter:
        for length in doc_lengths:
            embedded = model.model.embed_tokens(torch.zeros(1, length, dtype=torch.long))
            model(inputs_embeds=embedded).logits.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("doc_lengths", [[1], [17], [5, 1, 30]])
def test_the_count_is_that_of_torch(shape: str, doc_lengths: list[int]) -> None:
    tokens = sum(doc_lengths)
    all_pairs = sum(length**2 for length in doc_lengths)
    expected = counted(SHAPES[shape], doc_lengths)
    assert expected > 0
    assert step_flops(SHAPES[shape], tokens=tokens, trained_tokens=tokens, pairs=all_pairs) == expected


def test_a_pair_is_a_query_and_a_key_not_after_it() -> None:
    lengths = [4, 1, 7]
    pairs = [(query, key) for length in lengths for query in range(length) for key in range(length) if key <= query]
    assert count_pairs(lengths) == len(pairs) > sum(lengths)
    assert count_pairs(torch.tensor(lengths, dtype=torch.int32).numpy()) == len(pairs)


def test_no_query_sees_more_keys_than_its_window_holds() -> None:
    lengths, window = [4, 1, 7, 3], 3
    pairs = [(query, key) for length in lengths for query in range(length) for key in range(length) if key <= query]
    near = [(query, key) for query, key in pairs if query - key < window]
    assert count_pairs(lengths, [window]) == len(near) < len(pairs)
    assert count_pairs(lengths, [window, None, None, None]) == round((len(near) + 3 * len(pairs)) / 4)
    assert count_pairs(lengths, [7, 100]) == len(pairs)


def test_long_documents_do_not_overflow() -> None:
    lengths = torch.full((3,), 1 << 20, dtype=torch.int32).numpy()
    assert count_pairs(lengths) == 3 * (1 << 20) * ((1 << 20) + 1) // 2


def test_what_is_not_trained_spares_the_head_alone() -> None:
    shape = SHAPES["grouped"]
    assert shape.vocab_size
    all_of_them, none = (step_flops(shape, tokens=10, trained_tokens=trained, pairs=55) for trained in (10, 0))
    assert all_of_them - none == 6 * 10 * shape.hidden_size * shape.vocab_size


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989),
        ("NVIDIA H20", 148),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", 70),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 3090", 71),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA GeForce RTX 5090", 209.5),
        ("NVIDIA RTX A6000", 154.8),
        ("NVIDIA RTX 6000 Ada Generation", 364.2),
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", 2500),
        ("NVIDIA GH200 480GB", 989),
        ("AMD Instinct MI300X", 1307.4),
    ],
)
def test_devices_are_known_by_name(name: str, tera: float) -> None:
    assert peak_flops(name) == pytest.approx(tera * 1e12)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA RTX A600",
        "Quadro RTX 6000",
        "Tesla T4",
    ],
)
def test_others_are_not_guessed(name: str) -> None:
    assert peak_flops(name) is None


def test_each_device_of_the_table_is_found_under_its_own_name() -> None:
    """None stands behind one whose words it holds too."""
    assert all(peak_flops(f"NVIDIA {name}") == peak for name, peak in PEAKS)


def test_a_cpu_has_no_peak() -> None:
    assert device_peak_flops(torch.device("cpu")) is None
