"""One attention, whichever kernel: sdpa with a mask, and varlen_attn behind each signature that it has had."""

from typing import Any

import pytest
import torch
from document_rows import rows_of
from torch import Tensor

from schemas.errors import ConfigError
from train import attention
from train.attention import Borders, adapt_varlen, attend, choose_kernel, isolate

CPU = torch.device("cpu")
LENGTHS = [[5, 1, 7], [16], [2, 3]]
SEQ_LEN = 16


def softmax_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """[T, heads, head_dim] of one document, token by token and head by head."""
    seen = torch.empty_like(query)
    group = query.shape[1] // key.shape[1]
    for token in range(query.shape[0]):
        for head in range(query.shape[1]):
            keys, values = (x[: token + 1, head // group] for x in (key, value))
            weights = torch.softmax(keys @ query[token, head] * query.shape[2] ** -0.5, dim=0)
            seen[token, head] = weights @ values
    return seen


def by_document(query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor) -> Tensor:
    pieces = cu_seqlens.diff().tolist()
    documents = zip(*(x.split(pieces) for x in (query, key, value)), strict=True)
    return torch.cat([softmax_attention(*document) for document in documents])


def varlen_old(
    query: Tensor, key: Tensor, value: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int,
    is_causal: bool = False, return_aux: Any = None,
) -> Tensor:  # fmt: skip
    """The signature of 2.10, which wants as many heads of each."""
    assert is_causal
    assert query.shape == key.shape == value.shape
    assert max_q == max_k == SEQ_LEN
    assert cu_q is cu_k
    return by_document(query, key, value, cu_q)


def varlen_new(
    query: Tensor, key: Tensor, value: Tensor, cu_q: Tensor, cu_k: Tensor | None, max_q: int, max_k: int, *,
    return_aux: Any = None, scale: float | None = None, window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """The signature of 2.13."""
    assert window_size == (-1, 0)
    assert enable_gqa
    assert max_q == max_k == SEQ_LEN
    assert query.shape[1] > key.shape[1] == value.shape[1]
    return by_document(query, key, value, cu_q)


def varlen_between(
    query: Tensor, key: Tensor, value: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, *,
    return_aux: Any = None, scale: float | None = None, window_size: tuple[int, int] = (-1, -1),
) -> Tensor:  # fmt: skip
    """A window, but no groups of heads yet."""
    assert window_size == (-1, 0)
    assert query.shape == key.shape == value.shape
    return by_document(query, key, value, cu_q)


def make_heads(generator: torch.Generator, heads: int) -> Tensor:
    return torch.randn(len(LENGTHS), heads, SEQ_LEN, 8, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kernel", [varlen_old, varlen_between, varlen_new, attention.document_by_document])
def test_all_kernels_agree(kernel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The document-wise reference stands in for the CUDA kernel: what is tested is the way there and back."""
    if kernel is not attention.document_by_document:
        kernel = adapt_varlen(kernel)
    monkeypatch.setattr(attention, "document_by_document", kernel)
    generator = torch.Generator().manual_seed(0)
    query, key, value = make_heads(generator, 4), make_heads(generator, 2), make_heads(generator, 2)
    _, document_ids, cu_seqlens = rows_of(LENGTHS, SEQ_LEN)
    repeated = torch.cat((cu_seqlens, cu_seqlens[-1:].expand(3)))
    borders = isolate(document_ids, repeated, "varlen")
    assert isinstance(borders, Borders)
    masked = attend(query, key, value, isolate(document_ids, cu_seqlens, "sdpa"))
    torch.testing.assert_close(attend(query, key, value, borders), masked, rtol=1e-12, atol=1e-12)


def test_the_installed_varlen_attn_has_a_known_signature() -> None:
    """On the meta device it is called for real, arguments and all."""
    query, key = torch.empty(48, 4, 8, dtype=torch.bfloat16, device="meta"), torch.empty(48, 2, 8, device="meta")
    cu_seqlens = torch.empty(9, dtype=torch.int32, device="meta")
    key = key.bfloat16()
    assert attention.causal_varlen(query, key, key, cu_seqlens, SEQ_LEN).shape == query.shape


def test_on_cpu_it_goes_document_by_document_unless_compiled() -> None:
    assert (
        choose_kernel("auto", CPU, torch.float32, False)
        == choose_kernel("varlen", CPU, torch.float64, False)
        == "varlen"
    )
    assert choose_kernel("auto", CPU, torch.float32, True) == choose_kernel("sdpa", CPU, torch.float32, False) == "sdpa"
    with pytest.raises(ConfigError, match="not compiled, on a CPU; this run is in float32 and compiled"):
        choose_kernel("varlen", CPU, torch.float32, True)


@pytest.mark.parametrize(
    ("capability", "dtype", "kernel"),
    [
        ((9, 0), torch.bfloat16, "varlen"),
        ((8, 0), torch.float16, "varlen"),
        ((9, 0), torch.float32, "sdpa"),
        ((7, 5), torch.float16, "sdpa"),
    ],
)
def test_on_cuda_it_is_varlen_where_that_runs(
    capability: tuple[int, int], dtype: torch.dtype, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_kernel("auto", torch.device("cuda"), dtype, True) == kernel
    if kernel == "varlen":
        assert choose_kernel("varlen", torch.device("cuda"), dtype, True) == "varlen"
    else:
        with pytest.raises(ConfigError, match="varlen needs compute capability"):
            choose_kernel("varlen", torch.device("cuda"), dtype, True)
