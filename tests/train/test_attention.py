"""One attention, whichever kernel: sdpa with a mask, and varlen_attn behind each signature that it has had."""

from itertools import product
from typing import Any

import pytest
import torch
from document_rows import rows_of
from torch import Tensor

from schemas.errors import ConfigError
from train import attention
from train.attention import Borders, Kernel, Mask, attend, choose_kernel, isolate
from train.varlen import adapt_varlen, causal_varlen, document_by_document, has_windows

CPU = torch.device("cpu")
KERNELS: tuple[Kernel, ...] = ("sdpa", "varlen", "flex")
LENGTHS = [[5, 1, 7], [16], [2, 3]]
SEQ_LEN = 16


def softmax_attention(query: Tensor, key: Tensor, value: Tensor, window: int) -> Tensor:
    """[T, heads, head_dim] of one document, token by token and head by head."""
    seen = torch.empty_like(query)
    group = query.shape[1] // key.shape[1]
    for token in range(query.shape[0]):
        for head in range(query.shape[1]):
            keys, values = (x[max(0, token + 1 - window) : token + 1, head // group] for x in (key, value))
            weights = torch.softmax(keys @ query[token, head] * query.shape[2] ** -0.5, dim=0)
            seen[token, head] = weights @ values
    return seen


def by_document(query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, left: int = -1) -> Tensor:
    """left: so many tokens before itself does one see, -1: all."""
    pieces = cu_seqlens.diff().tolist()
    documents = zip(*(x.split(pieces) for x in (query, key, value)), strict=True)
    return torch.cat([softmax_attention(*document, SEQ_LEN if left < 0 else left + 1) for document in documents])


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
    assert window_size[1] == 0
    assert enable_gqa
    assert max_q == max_k == SEQ_LEN
    assert query.shape[1] > key.shape[1] == value.shape[1]
    return by_document(query, key, value, cu_q, window_size[0])


def varlen_between(
    query: Tensor, key: Tensor, value: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, *,
    return_aux: Any = None, scale: float | None = None, window_size: tuple[int, int] = (-1, -1),
) -> Tensor:  # fmt: skip
    """A window, but no groups of heads yet."""
    assert window_size[1] == 0
    assert query.shape == key.shape == value.shape
    return by_document(query, key, value, cu_q, window_size[0])


def make_heads(generator: torch.Generator, heads: int) -> Tensor:
    return torch.randn(len(LENGTHS), heads, SEQ_LEN, 8, generator=generator, dtype=torch.float64)


def mask_of(document_ids: Tensor, cu_seqlens: Tensor, kernel: Kernel, window: int | None = None) -> Mask:
    return isolate(document_ids, cu_seqlens, kernel).masks([window])[window]


WITH_WINDOWS = [varlen_between, varlen_new, document_by_document]


@pytest.mark.parametrize(
    ("kernel", "window"),
    [(varlen_old, None), (varlen_old, SEQ_LEN), *product(WITH_WINDOWS, [None, 1, 3, 5, SEQ_LEN, 100])],
)
def test_all_kernels_agree(kernel: Any, window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The document-wise reference stands in for the CUDA kernel: what is tested is the way there and back."""
    if kernel is not document_by_document:
        kernel = adapt_varlen(kernel)
    monkeypatch.setattr(attention, "document_by_document", kernel)
    generator = torch.Generator().manual_seed(0)
    query, key, value = make_heads(generator, 4), make_heads(generator, 2), make_heads(generator, 2)
    _, document_ids, cu_seqlens = rows_of(LENGTHS, SEQ_LEN)
    repeated = torch.cat((cu_seqlens, cu_seqlens[-1:].expand(3)))
    borders = mask_of(document_ids, repeated, "varlen", window)
    assert isinstance(borders, Borders)
    masked = attend(query, key, value, mask_of(document_ids, cu_seqlens, "sdpa", window))
    torch.testing.assert_close(attend(query, key, value, borders), masked, rtol=1e-12, atol=1e-12)
    flat = [x.transpose(1, 2).flatten(0, 1) for x in (query, key, value)]
    expected = by_document(*flat, cu_seqlens, -1 if window is None else window - 1)
    torch.testing.assert_close(masked.transpose(1, 2).flatten(0, 1), expected, rtol=1e-12, atol=1e-12)


def test_layers_with_equal_windows_share_a_mask() -> None:
    """A window that no pack is longer than is none."""
    _, document_ids, cu_seqlens = rows_of(LENGTHS, SEQ_LEN)
    for kernel in KERNELS:
        masks = isolate(document_ids, cu_seqlens, kernel).masks([None, 3, None, 3, SEQ_LEN, 100, 2])
        assert set(masks) == {None, 3, SEQ_LEN, 100, 2}
        assert masks[None] is masks[SEQ_LEN] is masks[100]
        assert len(set(map(id, masks.values()))) == 3


@pytest.mark.parametrize("window", [None, 3])
def test_the_installed_varlen_attn_has_a_known_signature(window: int | None) -> None:
    """On the meta device it is called for real, arguments and all."""
    query, key = torch.empty(48, 4, 8, dtype=torch.bfloat16, device="meta"), torch.empty(48, 2, 8, device="meta")
    cu_seqlens = torch.empty(9, dtype=torch.int32, device="meta")
    key = key.bfloat16()
    assert causal_varlen(query, key, key, cu_seqlens, SEQ_LEN, window).shape == query.shape


def test_on_cpu_it_goes_document_by_document_unless_compiled() -> None:
    assert (
        choose_kernel("auto", CPU, torch.float32, False, 10**6, [4])
        == choose_kernel("varlen", CPU, torch.float64, False)
        == "varlen"
    )
    assert choose_kernel("auto", CPU, torch.float32, True) == choose_kernel("sdpa", CPU, torch.float32, False) == "sdpa"
    with pytest.raises(ConfigError, match="not compiled, on a CPU; this run is in float32 and compiled"):
        choose_kernel("varlen", CPU, torch.float32, True)
    with pytest.raises(
        ConfigError, match="flex needs a GPU, as torch has no gradients for it on a CPU; this run is in"
    ):
        choose_kernel("flex", CPU, torch.float32, False)


@pytest.mark.parametrize(
    ("capability", "dtype", "seq_len", "runs"),
    [
        ((9, 0), torch.bfloat16, 131_072, ["varlen", "flex"]),
        ((8, 0), torch.float16, 8192, ["varlen", "sdpa", "flex"]),
        ((9, 0), torch.float32, 8192, ["sdpa", "flex"]),
        ((7, 5), torch.float16, 8192, ["sdpa", "flex"]),
        ((7, 5), torch.float32, 32_768, ["flex"]),
        ((6, 1), torch.float32, 8192, ["sdpa"]),
        ((9, 0), torch.float64, 8192, ["sdpa"]),
    ],
)
def test_on_cuda_it_is_varlen_where_that_runs(
    capability: tuple[int, int], dtype: torch.dtype, seq_len: int, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And else sdpa, unless its mask were too large."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_kernel("auto", torch.device("cuda"), dtype, True, seq_len) == runs[0]
    for kernel in KERNELS:
        if kernel in runs:
            assert choose_kernel(kernel, torch.device("cuda"), dtype, True, seq_len) == kernel
        else:
            with pytest.raises(ConfigError, match=f"attention: {kernel} needs .*--set attention=auto takes what runs"):
                choose_kernel(kernel, torch.device("cuda"), dtype, True, seq_len)


def test_a_varlen_without_windows_is_not_chosen_where_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(attention, "VARLEN_HAS_WINDOWS", has_windows(varlen_old))
    given = (torch.device("cuda"), torch.bfloat16, True, 8192)
    assert choose_kernel("auto", *given, [None, 8192]) == "varlen"
    assert choose_kernel("auto", *given, [None, 4096]) == "sdpa"
    with pytest.raises(ConfigError, match=r"varlen needs a newer torch than .* for a sliding window"):
        choose_kernel("varlen", *given, [None, 4096])
    assert has_windows(varlen_new)
