"""docs/integrate.md, run as it is printed: the gradients are those of documents one by one, and nothing leaks."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import modeling_flash_attention_utils as flash

from train.dataset import PackedDataset, collate

Build = Callable[..., str]
Packs = Sequence[Sequence[Any]]
SNIPPETS = re.findall(
    r"```python\n(.*?)```", (Path(__file__).parents[2] / "docs/integrate.md").read_text("utf-8"), re.S
)
COLUMNS = ("input_ids", "position_ids")
MODEL = "models/Qwen2.5-0.5B-Instruct"

DIMENSIONS = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}


def make_model(family: str = "Qwen2", attention: str = "sdpa") -> Any:
    torch.manual_seed(1)
    config = getattr(transformers, f"{family}Config")(**DIMENSIONS, attn_implementation=attention)
    return getattr(transformers, f"{family}ForCausalLM")(config).eval()


@pytest.fixture
def place(tmp_path: Path, build_dataset: Build, unequal_packs: Packs, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with what the snippets read."""
    build_dataset(tmp_path / "out/chat", unequal_packs, weights=True)
    make_model().save_pretrained(tmp_path / MODEL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(containing: str) -> dict[str, Any]:
    """Run the one snippet with this text, and return its names."""
    (snippet,) = [snippet for snippet in SNIPPETS if containing in snippet]
    names: dict[str, Any] = {}
    exec(compile(snippet, "docs/integrate.md", "exec"), names)
    return names


def one_by_one(model: Any, packs: Packs, weighted: bool) -> Tensor:
    """The loss of all packs: sum(weight * loss) / sum(weight), each document by itself."""
    losses, weights = [], []
    for document in (document for pack in packs for document in pack):
        ids = torch.tensor([document.ids])
        logits = model(ids, use_cache=False).logits[0]
        for place in range(1, len(document.ids)):
            if document.channel[place] & 7 == 3:
                losses.append(cross_entropy(logits[place - 1], ids[0, place]))
                weights.append(document.weight[place] if weighted else 1.0)
    assert len(losses) == 20
    return torch.stack(losses) @ torch.tensor(weights) / sum(weights)


def gradients_of(names: str) -> list[list[Tensor]]:
    """Those that each optimizer step of the snippet is made with."""
    steps: list[list[Tensor]] = []

    def keep(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        gradients = [parameter.grad for group in optimizer.param_groups for parameter in group["params"]]
        steps.append(sorted((gradient.clone() for gradient in gradients), key=lambda each: each.norm().item()))

    handle = register_optimizer_step_pre_hook(keep)
    try:
        run(names)
    finally:
        handle.remove()
    return steps


def expected_gradients(packs: Packs, clip_norm: float) -> list[Tensor]:
    model = make_model()
    one_by_one(model, packs, weighted=False).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    return sorted((each.grad for each in model.parameters()), key=lambda each: each.norm().item())


def assert_close(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    assert len(found) == len(expected) > 10
    for one, other in zip(found, expected, strict=True):
        assert other.norm() > 0
        assert (one - other).norm() / other.norm() < 1e-5


def test_there_are_snippets() -> None:
    assert len(SNIPPETS) == 5


def test_the_first_snippet_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("print(")
    assert capsys.readouterr().out.count("'labels': (2, 16)") == 2


def test_a_plain_loop_trains_as_documents_one_by_one(place: Path, unequal_packs: Packs) -> None:
    (step,) = gradients_of("packs_per_microbatch")
    assert_close(step, expected_gradients(unequal_packs, clip_norm=1e9))


def test_a_trainer_trains_as_documents_one_by_one(place: Path, unequal_packs: Packs) -> None:
    """Micro-batches of unequal numbers of trained tokens, in one step that Trainer clips to a norm of 1."""
    (step,) = gradients_of("Trainer(")
    assert_close(step, expected_gradients(unequal_packs, clip_norm=1.0))


def test_weights_weigh_as_documents_one_by_one(place: Path, unequal_packs: Packs) -> None:
    dataset, model = PackedDataset("out/chat"), make_model()
    step = collate([dataset[number] for number in range(5)])
    found = run("weighted_loss")["weighted_loss"](model, step, step["loss_weights"].sum())
    expected = one_by_one(model, unequal_packs, weighted=True)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    assert abs(expected.item() - one_by_one(model, unequal_packs, weighted=False).item()) > 1e-3


def test_the_loss_of_the_model_is_that_of_documents_one_by_one(place: Path, unequal_packs: Packs) -> None:
    """The labels are shifted by transformers itself."""
    dataset, model = PackedDataset("out/chat", columns=["input_ids", "labels", "position_ids"]), make_model()
    batch = collate([dataset[number] for number in range(5)])
    loss = model(**batch, use_cache=False).loss
    assert loss.item() == pytest.approx(one_by_one(model, unequal_packs, weighted=False).item(), rel=1e-6)


@torch.no_grad()
def find_leak(model: Any, batch: dict[str, Any]) -> float:
    """Change each document in turn: the most that a logit of any other moves. The document's own must move."""
    before, leak = model(**batch).logits, 0.0
    shape = batch["input_ids"].shape
    numbers = (batch["position_ids"] == 0).flatten().cumsum(0).view(shape)
    for number in range(1, int(numbers.max()) + 1):
        own = numbers == number
        changed = torch.where(own, (batch["input_ids"] + 1) % 50, batch["input_ids"])
        moved = (model(**{**batch, "input_ids": changed}).logits - before).abs().amax(dim=-1)
        assert moved[own].min() > 0
        leak = max(leak, moved[~own].max().item())
    return leak


def make_batch_for(place: Path, collate_rows: Any = collate, **given: Any) -> dict[str, Any]:
    """All five packs, of which three hold several documents or padding."""
    dataset = PackedDataset(str(place / "out/chat"), columns=["input_ids", "position_ids", "cu_seqlens"])
    batch = collate_rows([dataset[number] for number in range(5)])
    return {name: column for name, column in {**batch, **given}.items() if name != "cu_seqlens"}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["Llama", "Mistral", "Qwen2", "Qwen3"])
def test_documents_do_not_leak(place: Path, family: str, attention: str) -> None:
    model = make_model(family, attention)
    assert find_leak(model, make_batch_for(place, use_cache=False)) == 0


def test_documents_leak_where_a_condition_is_not_kept(place: Path) -> None:
    """What the docs warn of; and a guard of the test above."""
    model = make_model()
    mask = torch.ones((5, 16), dtype=torch.int64)
    assert find_leak(model, make_batch_for(place)) > 1e-3
    assert find_leak(model, make_batch_for(place, use_cache=False, attention_mask=mask)) > 1e-3
    without_positions = make_batch_for(place, use_cache=False)
    positions = torch.arange(16).expand(5, 16)
    dense = model(**{**without_positions, "position_ids": positions}).logits
    assert (dense - model(**without_positions).logits).abs().max() > 1e-3


def stand_in(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
    """Causal attention of [B, T, heads, head_dim], with fewer heads of keys and values."""
    heads = (each.transpose(1, 2) for each in (query, key, value))
    return scaled_dot_product_attention(*heads, is_causal=True, enable_gqa=True).transpose(1, 2)


def stand_in_varlen(query: Tensor, key: Tensor, value: Tensor, *, cu_seqlens_q: Tensor, **_: Any) -> Tensor:
    """The same of [tokens, heads, head_dim], document by document."""
    assert cu_seqlens_q.dtype == torch.int32
    lengths = cu_seqlens_q.diff().tolist()
    documents = zip(*(each.split(lengths) for each in (query, key, value)), strict=True)
    return torch.cat([stand_in(*(each[None] for each in document))[0] for document in documents])


def test_documents_do_not_leak_through_flash_kernels(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the borders; without them those of a batch of several rows do, as the docs say."""
    functions = (stand_in, stand_in_varlen, None, None, None)
    monkeypatch.setattr(flash, "lazy_import_flash_attention", lambda *_, **__: (functions, (lambda **_: {}, None)))
    model = make_model()
    model.config._attn_implementation = "flash_attention_2"
    batch = make_batch_for(place, run("collate_for_flash")["collate_for_flash"], use_cache=False)
    assert find_leak(model, batch) == 0
    assert find_leak(model, make_batch_for(place, use_cache=False)) > 1e-3
    packed = model(**batch).logits
    expected = make_model()(**make_batch_for(place, use_cache=False)).logits
    assert (packed - expected).abs().max() < 1e-5
