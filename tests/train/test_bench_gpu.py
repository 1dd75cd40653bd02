"""The GPU benchmark, as far as a machine without one can run it: full shapes without memory, small ones with."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gpu.__main__ as runner
import pytest
import torch
from gpu.cases import Case, all_cases, choose_cases
from gpu.memory import fitting_rows
from gpu.one import run_case
from gpu.ours import Ours, make_batches
from gpu.packs import make_entries, recorded_documents
from gpu.parts import Piece, busy_seconds, gpu_pieces, kind_of
from gpu.shapes import SHAPES, count_parameters, transformers_config
from gpu.steps import count_trained
from gpu.table import lines_of, parts_table, speed_table
from torch.autograd import DeviceType
from transformers import AutoModelForCausalLM

from train.model import Decoder
from train.parallel import join_world
from train.step import run_model
from train.weights import hugging_face_names

PARAMETERS = {"qwen-0.5b": 494_032_768, "llama-1b": 1_235_814_400, "llama-3b": 3_212_749_824}  # as published
H100 = 85_000_000_000


@pytest.mark.parametrize("name", SHAPES)
def test_a_full_shape_is_that_of_transformers_and_takes_a_step(name: str) -> None:
    """On the meta device, which computes shapes and dtypes alone."""
    shape = SHAPES[name]
    assert shape.vocab_size
    with torch.device("meta"):
        model = Decoder(shape).to(torch.bfloat16)
        theirs = AutoModelForCausalLM.from_config(transformers_config(shape))
    own = {name: parameter.shape for name, parameter in hugging_face_names(model).items()}
    assert own == {name: parameter.shape for name, parameter in theirs.named_parameters()}
    assert count_parameters(shape) == sum(map(torch.Size.numel, own.values())) == PARAMETERS[name]
    entries = list(islice(make_entries(0, 8192, shape.vocab_size), 2))
    (batch,) = make_batches(entries, 2, torch.device("meta"))
    share, losses = run_model(model, batch.to(torch.device("meta")), "sdpa", 1.0)
    share.backward()  # type: ignore[no-untyped-call]
    assert losses.shape == (sum(map(count_trained, entries)),)
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_packs_are_full_of_documents_as_they_were_recorded() -> None:
    entries = list(islice(make_entries(0, 4096, 500), 8))
    documents = recorded_documents()
    share = sum(trained for _, trained in documents) / sum(tokens for tokens, _ in documents)
    for entry in entries:
        assert entry.pack.doc_lengths.sum() == 4096
        assert set(entry.pack.doc_lengths[:-1].tolist()) <= {tokens for tokens, _ in documents}
    assert sum(map(count_trained, entries)) / (8 * 4096) == pytest.approx(share, abs=0.05)
    again = next(make_entries(0, 4096, 500))
    assert (again.pack.input_ids == entries[0].pack.input_ids).all()


def test_every_case_has_a_name_of_its_own_and_fits_a_gpu() -> None:
    cases = all_cases()
    assert len({case.name for case in cases}) == len(cases) > 20
    assert choose_cases("^llama-1b/4096/eager$") == [Case("llama-1b", 4096, "eager", compile=False)]
    for case in cases:
        size = partial(fitting_rows, SHAPES[case.shape], case.seq_len, loss=case.loss, models=1, most=16)
        rows = [
            size(checkpointing=checkpointing, memory=memory)
            for checkpointing in ("none", "selective", "full")
            for memory in (H100 // 4, H100)
        ]
        assert all(count in (1, 2, 4, 8, 16) for count in rows)
        assert rows[1] <= rows[3] <= rows[5]
        assert rows[5] > 1 or case.seq_len == 8192


def test_the_sides_have_the_same_loss() -> None:
    """Ours with each of its losses, and transformers, which has equal weights at first."""
    base = Case("qwen-0.5b", 8192, compile=False, checkpointing="full")
    cases = [replace(base, beside="sdpa"), replace(base, loss="trained logits"), replace(base, loss="all logits")]
    names = [["ours", "transformers"], ["ours"], ["ours"]]
    with join_world() as world:
        results = [
            run_case(case, own, world, tiny=True, steps=1, warm_up=1, shrink=1)
            for case, own in zip(cases, names, strict=True)
        ]
    sides = [side for result in results for side in result["sides"]]
    assert [side["side"] for side in sides] == ["ours", "transformers, sdpa", "ours", "ours"]
    for side in sides:
        assert side["rows"] == 1  # of the step's two packs
        assert side["losses"][0] == pytest.approx(sides[0]["losses"][0], rel=1e-6)
        assert side["losses"][1] == pytest.approx(sides[0]["losses"][1], rel=1e-4)
        assert side["tokens_per_second"] > side["trained_tokens_per_second"] > 0
        told = side["profile"]["shares"]
        assert sum(told.values()) == pytest.approx(1)
        assert min(told["products"], told["attention"], told["optimizer"], told["element-wise"]) > 0
        assert ("loss, products" in told) == (side["side"] == "ours")
    assert sides[0]["losses"][0] != pytest.approx(sides[0]["losses"][1], rel=1e-4)
    json.dumps(results)


def test_other_packs_compile_nothing_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of documents, of trained places and of rows in a chunk all differ from step to step."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    monkeypatch.setattr("train.loss.CHUNK_ELEMENTS", {"cpu": 100 * 500})
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()  # of tests before
    case = Case("llama-1b", 4096, attention="sdpa", checkpointing="none")
    entries = make_entries(1, 512, 500)
    compiled = []
    with join_world() as world:
        shape = SHAPES["llama-1b"].model_copy(
            update={"vocab_size": 500, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
        )
        ours = Ours(case, shape, 1, "float32", world)
        for _ in range(3):
            ours.step(list(islice(entries, 2)))
            compiled.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    torch._dynamo.reset()
    assert compiled[0] == compiled[-1]
    assert 0 < compiled[0] <= 4  # one graph serves all blocks, another the softmax


KERNELS = {
    "void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<...>": "attention",
    "fmha_cutlassF_bf16_aligned_64x64_rf_sm80(...)": "attention",
    "triton_tem_fused_flex_attention_0": "attention",
    "nvjet_tst_128x256_64x4_1x2_h_bz_coopA_TNT": "products",
    "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64": "products",
    "void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu>": "products",
    "void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16>": "products",
    "triton_red_fused__to_copy_add_mean_mul_pow_rsqrt_2": "element-wise",
    "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>": "element-wise",
    "ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)": "communication",
    "Memcpy HtoD (Pinned -> Device)": "copies",
    "void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda>": "copies",
}


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_are_known_by_name(name: str) -> None:
    assert kind_of(Piece(name, ("aten::something",), 1.0)) == KERNELS[name]
    assert kind_of(Piece(name, ("x", "Optimizer.step#AdamW.step"), 1.0)) == "optimizer"
    told = kind_of(Piece(name, ("x", "part: loss"), 1.0))
    assert told == ("loss, products" if KERNELS[name] == "products" else "loss")


def test_what_runs_on_a_device_is_counted_once_and_told_by_what_launched_it() -> None:
    """Events as torch has them, microseconds: two kernels that overlap, an annotation, and one that nobody launched."""

    def event(name: str, kind: DeviceType, start: int, end: int, **more: Any) -> SimpleNamespace:
        span = SimpleNamespace(start=start, end=end)
        return SimpleNamespace(name=name, device_type=kind, time_range=span, kernels=[], cpu_parent=None, **more)

    part = event("part: loss", DeviceType.CPU, 0, 9)
    launcher = event("aten::mm", DeviceType.CPU, 0, 5)
    launcher.cpu_parent, launcher.kernels = part, [SimpleNamespace(name="gemm", duration=100)]
    on_device = [("gemm", 100, 200), ("part: loss", 100, 200), ("triton_poi", 150, 250), ("Memcpy", 400, 500)]
    events = [part, launcher, *(event(name, DeviceType.CUDA, *span) for name, *span in on_device)]
    assert busy_seconds(events) == pytest.approx((250e-6, 400e-6))
    pieces = {piece.name: (kind_of(piece), piece.seconds) for piece in gpu_pieces(events)}
    expected = {"gemm": "loss, products", "triton_poi": "element-wise", "Memcpy": "copies"}
    assert pieces == {name: (kind, pytest.approx(100e-6)) for name, kind in expected.items()}


CASE = Case("llama-1b", 4096, "transformers", beside="sdpa")


def side_of(name: str) -> dict[str, Any]:
    rates = {"tokens_per_second": 200.0 if name == "ours" else 100.0, "trained_tokens_per_second": 50.0}
    profile = {"shares": {"products": 0.5, "idle": 0.5}}
    return {"side": name, "rows": 4, "mfu": 0.4, "peak_gib": 1.0, "seconds": [1.0, 2.0], "profile": profile, **rates}


@pytest.mark.parametrize(
    ("together", "answers", "calls"),
    [
        (True, {"ours transformers 0": "ok"}, 1),
        (False, {"ours transformers 0": "apart", "ours 0": "ok", "transformers 0": "ok"}, 3),
        (False, {"ours transformers 0": "failed", "ours 0": "out of memory", "ours 1": "ok", "transformers 0": "x"}, 4),
    ],
)
def test_what_does_not_run_is_tried_apart_and_smaller(
    together: bool, answers: dict[str, str], calls: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def answer(case: Case, sides: Any, out: Path, deadline: float, options: Any) -> dict[str, Any]:
        asked.append(f"{' '.join(sides)} {options[-1]}")
        status = answers[asked[-1]]
        return {"status": status} | ({"sides": list(map(side_of, sides))} if status == "ok" else {"error": "why"})

    monkeypatch.setattr(runner, "run_process", answer)
    runner.measure_all([CASE], tmp_path, 60.0, [])
    runner.measure_all([CASE], tmp_path, 60.0, [])  # it is there
    assert len(asked) == calls
    result = json.loads(runner.file_of(CASE, tmp_path).read_text())
    lines = lines_of(result)
    assert len(lines) == 2
    assert result["together"] == together
    assert lines[0][-1] == ("2.00" if together else "2.00, one after the other" if calls == 3 else "")
    assert lines[1][1:3] == ("transformers", "x") or calls < 4
    assert speed_table([result]).count("\n") == 3
    assert "products" in parts_table([result])


def test_time_that_runs_out_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runner.measure_all([CASE, replace(CASE, variation="other")], tmp_path, 1.0, [])
    assert not list(tmp_path.iterdir())
    assert "run this again" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_writes_each_case_and_a_table(
    launch: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    root = Path(__file__).parents[2]
    options = ["--tiny", "--out", tmp_path, "--cases", "qwen-0.5b/8192/eager", "--steps", 1, "--warm-up", 0]
    done = launch("python", "-m", "gpu", *options, PYTHONPATH=f"{root}:{root / 'tests' / 'benchmarks'}")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "qwen-0.5b-8192-eager.json").read_text())
    assert [side["side"] for side in result["sides"]] == ["ours"], result
    assert "| qwen-0.5b/8192/eager | ours |" in done.stdout
