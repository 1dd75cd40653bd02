"""What can be seen on a GPU alone. docs/benchmarks.md says how to run these; elsewhere they are skipped."""

import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu.ours import make_batches
from gpu.packs import make_entries
from torch import Tensor
from torch.distributed.tensor import DTensor

import train.loss
from train.architecture import Architecture
from train.attention import choose_kernel
from train.batch import Batch
from train.config import TrainConfig
from train.loop import train as train_model
from train.loss import adds_finer, linear_cross_entropy, scaled_softmax
from train.model import Decoder
from train.optim import clip_gradients
from train.parallel import World, dtypes_of, join_world
from train.run import make_model
from train.step import accumulate_gradients, count_step, look_at_step, run_model
from train.weights import initialise

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch looks once, before its first product on a GPU

SEQ_LEN, VOCAB_SIZE = 512, 1000
SHAPE = Architecture(
    hidden_size=256,
    intermediate_size=512,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=VOCAB_SIZE,
)
Gradients = dict[str, Tensor]


@pytest.fixture
def world() -> Iterator[World]:
    with join_world() as world:
        yield world


def batches(count: int, device: torch.device) -> list[Batch]:
    """Micro-batches of two packs, in pinned memory."""
    return make_batches(list(islice(make_entries(0, SEQ_LEN, VOCAB_SIZE), 2 * count)), 2, device)


def build(world: World, **changes: Any) -> tuple[Decoder, TrainConfig]:
    required = {"output": "none", "datasets": [{"path": "none"}], "packs_per_step": 1, "steps": 1}
    config = TrainConfig.model_validate({**required, "model": SHAPE.model_dump(), **changes})
    return make_model(config, SHAPE, world), config


def step(world: World, **changes: Any) -> tuple[float, Gradients]:
    """Loss and gradients of a step of two micro-batches, through the trainer's own code."""
    model, config = build(world, **changes)
    kernel = choose_kernel(config.attention, world.device, dtypes_of(config)[0], config.compile)
    own = batches(2, world.device)
    sums = accumulate_gradients(model, own, count_step(own, False, world), 1, kernel, world)
    found = gradients(model)
    loss, _ = look_at_step(sums, clip_gradients(model, config.clip_norm), world)
    return loss.mean, found


def gradients(model: Decoder) -> Gradients:
    found = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        whole = parameter.grad.full_tensor() if isinstance(parameter.grad, DTensor) else parameter.grad
        found[name] = whole.double().cpu()
    return found


@pytest.fixture(scope="module")
def on_cpu() -> tuple[float, Gradients]:
    """The same step in one piece, in float32 with a mask, without FSDP."""
    model = Decoder(SHAPE)
    initialise(model, seed=0)
    own = batches(2, torch.device("cpu"))
    weight = sum(float(batch.weights.sum()) for batch in own)
    losses = []
    for batch in own:
        share, _ = run_model(model, batch, "sdpa", weight)
        share.backward()  # type: ignore[no-untyped-call]
        losses.append(float(share))
    return sum(losses), gradients(model)


def assert_near(found: tuple[float, Gradients], expected: tuple[float, Gradients], tolerance: float) -> None:
    """Gradients relative to each tensor's norm; the loss ten times nearer."""
    assert found[0] == pytest.approx(expected[0], rel=tolerance / 10)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert gradient.norm() > 0, name
        assert (found[1][name] - gradient).norm() <= tolerance * gradient.norm(), name


def test_a_step_in_float32_is_that_of_a_cpu(world: World, on_cpu: tuple[float, Gradients]) -> None:
    assert_near(step(world, attention="sdpa"), on_cpu, 1e-4)


@pytest.mark.parametrize("attention", ["varlen", "flex", "sdpa"])
def test_kernels_agree_in_bfloat16(attention: str, world: World, on_cpu: tuple[float, Gradients]) -> None:
    assert_near(step(world, attention=attention, dtype="bfloat16"), on_cpu, 5e-2)


@pytest.mark.parametrize("attention", ["varlen", "flex"])
@pytest.mark.parametrize("checkpointing", ["none", "selective", "full"])
def test_compiled_is_as_not_compiled(
    attention: str, checkpointing: str, world: World, on_cpu: tuple[float, Gradients]
) -> None:
    changes = {"attention": attention, "activation_checkpointing": checkpointing, "dtype": "bfloat16"}
    assert_near(step(world, compile=True, **changes), on_cpu, 5e-2)


@pytest.mark.parametrize("compiled", [False, True])
def test_micro_batches_do_not_wait_for_the_device(compiled: bool, world: World) -> None:
    """A step looks at the device when gradients are clipped, and not before, whatever its micro-batches."""
    model, config = build(world, dtype="bfloat16", compile=compiled)
    kernel = choose_kernel("varlen", world.device, torch.bfloat16, compiled)
    assert config.compile == compiled

    def looks(count: int) -> int:
        own = batches(count, world.device)
        counted = count_step(own, False, world)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                accumulate_gradients(model, own, counted, 1, kernel, world)
                clip_gradients(model, config.clip_norm)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("synchronizing" in str(warning.message) for warning in caught)

    looks(2)  # what is made or compiled at first
    assert looks(2) == looks(6) == 0


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_loss_is_that_of_full_logits(
    dtype: torch.dtype, compiled: bool, monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    monkeypatch.setattr(train.loss, "CHUNK_ELEMENTS", {"cpu": 100 * VOCAB_SIZE, "gpu": 100 * VOCAB_SIZE})
    softmax = torch.compile(scaled_softmax, fullgraph=True, dynamic=True) if compiled else scaled_softmax
    torch.manual_seed(0)
    hidden = torch.randn(777, 256, device=world.device).to(dtype).requires_grad_()
    weight = (torch.randn(VOCAB_SIZE, 256, device=world.device) / 8).to(dtype).requires_grad_()
    targets = torch.randint(0, VOCAB_SIZE, (777,), device=world.device)
    scale = torch.rand(777, device=world.device, dtype=torch.float64)
    total, losses = linear_cross_entropy(hidden, weight, targets, scale, softmax)
    total.backward()  # type: ignore[no-untyped-call]
    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight)]
    expected = torch.nn.functional.cross_entropy(exact[0] @ exact[1].t(), targets, reduction="none")
    (expected @ scale).backward()  # type: ignore[no-untyped-call]
    tolerance = 1e-2 if dtype is torch.bfloat16 else 1e-5
    pairs = [(losses, expected.detach()), (hidden.grad, exact[0].grad), (weight.grad, exact[1].grad)]
    for found, wanted in pairs:
        assert found is not None
        assert wanted is not None
        assert (found - wanted).norm() <= tolerance * wanted.norm()


def test_products_are_added_in_float32_in_one_kernel(world: World) -> None:
    """If not, the loss takes the slower way, and is right."""
    assert adds_finer(world.device, torch.bfloat16, torch.float32)
    left, right = (torch.randn(64, 64, device=world.device).bfloat16() for _ in range(2))
    total = torch.randn(64, 64, device=world.device)
    expected = total.double() + left.t().double() @ right.double()
    train.loss._add_product(total, left.t(), right)
    assert (total - expected).norm() <= 1e-5 * expected.norm()


def test_a_run_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(
    build_dataset: Callable[..., str], unequal_packs: Sequence[Any], tmp_path: Path
) -> None:
    path = build_dataset(tmp_path / "data", unequal_packs)
    config = TrainConfig.model_validate(
        {
            "output": tmp_path / "run",
            "datasets": [{"path": path}],
            "model": "tiny",
            "packs_per_step": 4,
            "steps": 4,
            "dtype": "bfloat16",
            "attention": "sdpa",
            "deterministic": True,
            "checkpoints": {"every": 2},
        }
    )
    train_model(config)
    exported = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "run" / "model")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000004")
    train_model(config, "resume")
    torch.use_deterministic_algorithms(False)
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == exported
