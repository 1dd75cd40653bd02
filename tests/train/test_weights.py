"""A model's folder gives the logits of transformers, documents packed or not; what does not fit is named."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from document_rows import rows_of
from hugging_face_models import FAMILIES, VOCAB_SIZE, make_model, save_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from schemas.errors import ConfigError
from train.architecture import PRESETS, Architecture
from train.attention import Isolation, isolate
from train.loss import Trained
from train.model import Decoder
from train.model_folder import read_architecture
from train.weights import INDEX, WEIGHTS, initialise, load_weights

SEQ_LEN = 40
LENGTHS = [[17, 1, 9, 8], [40], [30, 10], [5]]


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Decoder:
    with torch.device("meta"):
        model = Decoder(read_architecture(folder)).to(dtype)
    model.to_empty(device="cpu")
    load_weights(model, folder)
    return model


def make_inputs() -> tuple[Tensor, Tensor, Isolation]:
    input_ids = torch.randint(0, VOCAB_SIZE, (len(LENGTHS), SEQ_LEN), generator=torch.Generator().manual_seed(5))
    position_ids, document_ids, cu_seqlens = rows_of(LENGTHS, SEQ_LEN)
    return input_ids, position_ids, isolate(document_ids, cu_seqlens, "sdpa")


def run_alone(model: Any, input_ids: Tensor) -> Tensor:
    """transformers' logits of each document by itself, put together to rows."""
    rows = []
    for ids, lengths in zip(input_ids, LENGTHS, strict=True):
        pieces = [*lengths, SEQ_LEN - sum(lengths)] if sum(lengths) < SEQ_LEN else lengths
        rows.append(torch.cat([model(piece[None]).logits[0] for piece in ids.split(pieces)]))
    return torch.stack(rows)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_packed_rows_have_the_logits_that_transformers_has_for_each_document(
    family: str, seed: int, tmp_path: Path
) -> None:
    oracle = make_model(family, seed)
    spelling, shard_size = ((5, "5GB"), (4, "5KB"))[seed]
    folder = save_model(oracle, tmp_path / "model", spelling, shard_size)
    assert (folder / INDEX).exists() == (seed == 1)
    input_ids, position_ids, isolation = make_inputs()
    expected = run_alone(oracle, input_ids)
    found = load(folder).logits(input_ids, position_ids, isolation)
    assert expected.std() > 0.1
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (oracle(input_ids).logits - expected).abs().max() > 1e-2  # it matters which document is seen


@pytest.mark.parametrize("family", ["llama3.1", "qwen2.5-yarn", "mistral-window", "qwen3-window"])
def test_the_loss_is_that_of_the_trained_places_alone(family: str, tmp_path: Path) -> None:
    """And so are the gradients, which come from transformers' logits and plain autograd. Its norms and rotary angles
    are computed in float32, whatever the dtype."""
    oracle = make_model(family).double()
    model = load(save_model(oracle, tmp_path / "model"), torch.float64)
    input_ids, position_ids, isolation = make_inputs()
    generator = torch.Generator().manual_seed(6)
    places = torch.randperm(input_ids.numel(), generator=generator)[:23]
    targets = torch.randint(0, VOCAB_SIZE, (23,), generator=generator)
    weights = torch.rand(23, generator=generator, dtype=torch.float64)
    total, losses = model(input_ids, position_ids, isolation, Trained(places, targets, weights))
    logits = run_alone(oracle, input_ids).flatten(0, 1)
    expected = -torch.log_softmax(logits, dim=-1)[places, targets]
    torch.testing.assert_close(losses, expected.detach(), rtol=1e-5, atol=1e-5)
    (weights * expected).sum().backward()  # type: ignore[no-untyped-call]
    total.backward()  # type: ignore[no-untyped-call]
    assert not losses.requires_grad
    gradients = {name.removeprefix("model."): parameter.grad for name, parameter in oracle.named_parameters()}
    assert gradients.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert gradients[name].norm() > 1e-4
        assert (parameter.grad - gradients[name]).norm() <= 1e-5 * gradients[name].norm(), name


def test_nothing_trained_is_a_loss_of_zero_with_gradients_of_zero(tmp_path: Path) -> None:
    model = load(save_model(make_model("qwen3"), tmp_path / "model"))
    none = torch.zeros(0, dtype=torch.int64)
    total, losses = model(*make_inputs(), Trained(none, none, none.double()))
    total.backward()
    assert (total.item(), losses.shape) == (0.0, (0,))
    assert all(parameter.grad is not None and not parameter.grad.count_nonzero() for parameter in model.parameters())


def test_weights_are_read_in_the_dtype_of_the_parameters(tmp_path: Path) -> None:
    folder = save_model(make_model("llama2").bfloat16(), tmp_path / "model")
    stored = load_file(folder / WEIGHTS)
    for dtype in (torch.bfloat16, torch.float64):
        found = load(folder, dtype)
        assert {parameter.dtype for parameter in found.parameters()} == {dtype}
        assert torch.equal(found.embed_tokens.weight, stored["model.embed_tokens.weight"].to(dtype))


def change(folder: Path, drop: str = "", **added: Tensor) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors.pop(drop, None)
    save_file({**tensors, **{name.replace("__", "."): tensor for name, tensor in added.items()}}, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("drop", "added", "message"),
    [
        ("model.norm.weight", {}, r"lack model\.norm\.weight \(1 tensors are missing\)"),
        ("", {"model__extra": torch.ones(1)}, r"hold model\.extra \(1 such tensors\)"),
        ("", {"model__norm__weight": torch.ones(3)}, r"model\.norm\.weight has the shape \[3\], config\.json asks for"),
    ],
)
def test_what_does_not_fit_is_named(drop: str, added: dict[str, Tensor], message: str, tmp_path: Path) -> None:
    folder = save_model(make_model("qwen2"), tmp_path / "model")
    change(folder, drop, **added)
    with pytest.raises(ConfigError, match=message):
        load(folder)


def test_what_follows_from_the_config_may_stand_in_the_files(tmp_path: Path) -> None:
    folder = save_model(make_model("llama3.2"), tmp_path / "model")
    name = "model__layers__0__self_attn__rotary_emb__inv_freq"
    change(folder, **{name: torch.ones(8), "lm_head__weight": torch.ones(VOCAB_SIZE, 2)})
    assert load(folder).lm_head is None


def test_files_that_are_not_there_or_not_whole(tmp_path: Path) -> None:
    folder = save_model(make_model("llama2"), tmp_path / "model", max_shard_size="5KB")
    shards = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
    assert len(shards) > 1
    whole = (folder / shards[1]).read_bytes()
    (folder / shards[1]).write_bytes(whole[:-10])
    with pytest.raises(ConfigError, match=f"{shards[1]} is no whole safetensors file"):
        load(folder)
    (folder / shards[1]).unlink()
    with pytest.raises(ConfigError, match=rf"{shards[1]} does not exist \(1 files are missing\)"):
        load(folder)
    (folder / INDEX).unlink()
    with pytest.raises(ConfigError, match=r"neither model\.safetensors nor"):
        load(folder)


def test_a_new_model_has_norms_of_one_and_normal_matrices() -> None:
    tiny = PRESETS["tiny"].model_dump() | {"vocab_size": 500, "model_type": "qwen2"}
    models = [Decoder(Architecture(**tiny)) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        initialise(model, seed)
    state, again, other = (model.state_dict() for model in models)
    seen = {"norm": 0, "bias": 0, "matrix": 0}
    for name, tensor in state.items():
        assert torch.equal(tensor, again[name])
        kind = "norm" if "norm" in name else "bias" if name.endswith("bias") else "matrix"
        seen[kind] += 1
        if kind == "matrix":
            assert tensor.std().item() == pytest.approx(0.02, rel=0.1)
            assert not torch.isclose(tensor, other[name]).all()
        else:
            assert set(tensor.tolist()) == {1.0 if kind == "norm" else 0.0}
    assert min(seen.values()) > 4
    assert len({tensor.flatten()[0].item() for tensor in state.values()}) == seen["matrix"] + 2
