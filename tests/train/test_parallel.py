"""What the ranks do to a model, in a world of one: checkpointed, compiled, sharded, and in which dtypes.

That several ranks give the sums of one is proved in test_step.py.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from schemas.errors import ConfigError
from train.architecture import PRESETS
from train.attention import isolate
from train.config import TrainConfig
from train.loss import Trained
from train.model import Decoder
from train.optim import make_optimizer, update
from train.parallel import World, describe_ranks, join_world, make_mesh, sum_over_replicas
from train.run import make_model

SEQ_LEN, VOCAB_SIZE = 32, 50
PRODUCTS = ("aten::mm", "aten::addmm")
IN_A_BLOCK = 7
"""Matrix products: query, key, value and output of attention; gate, up and down."""
MODES = ("none", "selective", "full")

BFLOAT16, FLOAT32, FLOAT64 = torch.bfloat16, torch.float32, torch.float64
DTYPES = {  # (dtype, master_dtype): that of weights, gradients and optimizer state, and that of the sums over ranks
    ("float32", None): (FLOAT32, FLOAT32),
    ("bfloat16", None): (FLOAT32, FLOAT32),
    ("float64", None): (FLOAT64, FLOAT64),
    ("bfloat16", "bfloat16"): (BFLOAT16, FLOAT32),
    ("float32", "float64"): (FLOAT64, FLOAT32),
}


class Recorder(TorchDispatchMode):
    """The operations that run, and the memory that they make and that is alive still."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[str, list[torch.dtype]]] = []
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        out = function(*arguments, **(keywords or {}))
        name = function._schema.name
        given = [value.dtype for value in (*arguments, *(keywords or {}).values()) if isinstance(value, Tensor)]
        self.operations.append((name, given))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._made[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return out

    @property
    def products(self) -> int:
        return sum(name in PRODUCTS for name, _ in self.operations)

    def dtypes_given_to(self, part: str) -> set[torch.dtype]:
        return {dtype for name, dtypes in self.operations if part in name for dtype in dtypes}

    @property
    def alive(self) -> int:
        """Bytes."""
        return sum(size for storage, size in self._made.values() if not storage.expired())


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with join_world() as world:
        yield world


def make_config(**changes: Any) -> TrainConfig:
    values = {"output": "out", "datasets": [{"path": "data"}], "model": "tiny", "packs_per_step": 1, "steps": 1}
    return TrainConfig.model_validate({**values, **changes})


def build(world: World, *, tie_word_embeddings: bool = False, **changes: Any) -> Decoder:
    shape = {"vocab_size": VOCAB_SIZE, "tie_word_embeddings": tie_word_embeddings}
    return make_model(make_config(**changes), PRESETS["tiny"].model_copy(update=shape), world)


def forward(model: Decoder, world: World) -> Tensor:
    """The loss of one row of one document, of which every token is trained."""
    places = torch.arange(SEQ_LEN, device=world.device)[None]
    input_ids = places * 7 % VOCAB_SIZE
    isolation = isolate(torch.zeros_like(places), torch.tensor([0, SEQ_LEN], dtype=torch.int32), "sdpa")
    trained = Trained(places[0, :-1], input_ids[0, 1:], torch.full((SEQ_LEN - 1,), 1 / SEQ_LEN, dtype=FLOAT64))
    loss, _ = model(input_ids, places, isolation, trained)
    return loss


@pytest.fixture(scope="module")
def recorded(world: World) -> dict[str, tuple[Recorder, int, Recorder]]:
    """By mode: the forward pass, the bytes that are alive after it, and the backward pass."""
    found = {}
    for mode in MODES:
        model = build(world, activation_checkpointing=mode, cpu_offload=True)  # blocks come and go in all modes
        with Recorder() as ahead:
            loss = forward(model, world)
        alive = ahead.alive
        with Recorder() as back:
            loss.backward()  # type: ignore[no-untyped-call]
        found[mode] = ahead, alive, back
    return found


def test_checkpointing_computes_again_what_it_does_not_keep(recorded: Any) -> None:
    """The last matrix product of a block is never computed again: nothing but the block's output needs it."""
    layers = PRESETS["tiny"].num_hidden_layers
    ahead = {mode: recorded[mode][0].products for mode in MODES}
    again = {mode: recorded[mode][2].products - recorded["none"][2].products for mode in MODES}
    assert set(ahead.values()) == {ahead["none"]}
    assert ahead["none"] > IN_A_BLOCK * layers
    assert again == {"none": 0, "selective": layers * (IN_A_BLOCK // 2), "full": layers * (IN_A_BLOCK - 1)}


def test_selective_checkpointing_keeps_attention(recorded: Any) -> None:
    attentions = {
        mode: sum("attention" in name and "backward" not in name for name, _ in recorded[mode][2].operations)
        for mode in MODES
    }
    assert attentions == {"none": 0, "selective": 0, "full": PRESETS["tiny"].num_hidden_layers}


def test_checkpointing_saves_memory(recorded: Any) -> None:
    """The attention that `selective` keeps, and half of the matrix products, are less than half of what `none` does."""
    none, selective, full = (recorded[mode][1] for mode in MODES)
    assert 0 < selective - full < (none - full) / 2


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[Any], list[Any]]]:
    """What is compiled (functions), and the graphs that come of it, which run as they are."""
    functions: list[Any] = []
    graphs: list[Any] = []
    compile_with = torch.compile

    def keep(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    def compile_eagerly(function: Any, **options: Any) -> Any:
        functions.append(function)
        assert options.pop("fullgraph") is True
        return compile_with(function, backend=keep, fullgraph=True, **options)

    monkeypatch.setattr(torch, "compile", compile_eagerly)
    torch._dynamo.reset()
    yield functions, graphs
    torch._dynamo.reset()


@pytest.mark.parametrize("wanted", [True, False])
def test_blocks_and_softmax_are_compiled_as_wholes(
    wanted: bool, compiled: tuple[list[Any], list[Any]], world: World
) -> None:
    functions, graphs = compiled
    model = build(world, compile=wanted)
    forward(model, world).backward()  # type: ignore[no-untyped-call]
    owners = [getattr(function, "__self__", None) for function in functions]
    assert owners == ([*model.layers, None] if wanted else [])
    blocks = [graph for graph in graphs if "linear(" in str(graph.code)]
    assert len(graphs) - len(blocks) == wanted == bool(blocks)
    for graph in blocks:
        assert str(graph.code).count("linear(") == IN_A_BLOCK


@pytest.mark.parametrize("tied", [False, True])
def test_a_block_is_whole_only_while_it_runs(tied: bool, world: World) -> None:
    """Each block, and what is left, is gathered by itself: while a block runs all others are in shards, and so are the
    embeddings, unless the output needs them as well. (A rank alone does so only to save memory.)"""
    model = build(world, tie_word_embeddings=tied, cpu_offload=True)
    own = {
        block: {f"layers.{number}.{name}" for name, _ in block.named_parameters()}
        for number, block in enumerate(model.layers)
    }
    rest = {"norm.weight", "embed_tokens.weight" if tied else "lm_head.weight"}
    whole: list[set[str]] = []
    whole_in_backward: set[str] = set()

    def look() -> set[str]:
        return {name for name, parameter in model.named_parameters() if not isinstance(parameter, DTensor)}

    for block in model.layers:
        block.register_forward_pre_hook(lambda *_: whole.append(look()))
    model.layers[0].register_full_backward_hook(lambda *_: whole_in_backward.update(look()))
    assert all(isinstance(module, FSDPModule) for module in (model, *model.layers))
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    forward(model, world).backward()  # type: ignore[no-untyped-call]
    assert whole == [own[block] | rest for block in model.layers]
    assert ("embed_tokens.weight" in whole_in_backward) == tied
    assert all(isinstance(parameter.grad, DTensor) for parameter in model.parameters())


def gradients_of_a_step(model: Decoder, world: World) -> tuple[list[bool], list[Tensor]]:
    """(whether all parameters are whole at the start of each of three micro-batches' blocks, the gradients)"""
    whole: list[bool] = []

    def look(*_: Any) -> None:
        whole.append(not any(isinstance(parameter, DTensor) for parameter in model.parameters()))

    model.layers[0].register_forward_pre_hook(look)
    for last in (False, False, True):
        sum_over_replicas(model, last)
        forward(model, world).backward()  # type: ignore[no-untyped-call]
    grads = [parameter.grad for parameter in model.parameters()]
    return whole, [grad.to_local() for grad in grads if isinstance(grad, DTensor)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_rank_alone_has_the_same_gradients_from_weights_that_stay_whole(dtype: str, world: World) -> None:
    """Bit by bit: micro-batches' gradients are added up in the same order and in the same dtype. After the step all
    parameters are in shards again."""
    model = build(world, dtype=dtype)
    whole, found = gradients_of_a_step(model, world)
    in_shards, expected = gradients_of_a_step(build(world, dtype=dtype, cpu_offload=True), world)
    assert whole == [False, True, True]
    assert not any(in_shards)
    assert len(found) == len(expected) == len(list(model.parameters()))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    "saving", [{"dtype": "bfloat16", "master_dtype": "bfloat16"}, {"activation_checkpointing": "full"}]
)
def test_nothing_stays_whole_where_memory_is_saved(saving: dict[str, str], world: World) -> None:
    whole, _ = gradients_of_a_step(build(world, **saving), world)
    assert not any(whole)


@pytest.mark.parametrize(("dtype", "master_dtype"), DTYPES)
def test_dtypes(dtype: str, master_dtype: str | None, world: World) -> None:
    master, summed = DTYPES[dtype, master_dtype]
    config = make_config(dtype=dtype, master_dtype=master_dtype)
    model = build(world, dtype=dtype, master_dtype=master_dtype)
    optimizer = make_optimizer(model, config)
    computed: set[torch.dtype] = set()

    def look(block: nn.Module, arguments: Any) -> None:
        computed.update(tensor.dtype for tensor in (arguments[0], *block.parameters()))

    for block in model.layers:
        block.register_forward_pre_hook(look)
    loss = forward(model, world)
    with Recorder() as back:
        loss.backward()  # type: ignore[no-untyped-call]
    assert computed == {getattr(torch, dtype)}
    assert back.dtypes_given_to("fsdp::chunk_cat") == {summed}  # the buffer in which ranks sum gradients
    assert {parameter.grad.dtype for parameter in model.parameters() if parameter.grad is not None} == {master}
    update(optimizer, 0.01)
    assert {parameter.dtype for parameter in model.parameters()} == {master}
    states = [optimizer.state[parameter] for parameter in model.parameters()]
    assert {state[name].dtype for state in states for name in ("exp_avg", "exp_avg_sq")} == {master}


def test_ranks_that_do_not_fit_are_refused_before_memory_is_taken(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.nn.Module, "to_empty", None)
    with pytest.raises(ConfigError, match="1 ranks are no multiple of shard_ranks 2; start 2 ranks"):
        build(world, shard_ranks=2)
    with pytest.raises(ConfigError, match=r"12 ranks are no multiple of shard_ranks 8.*--set shard_ranks=null"):
        make_mesh(8, World(rank=3, ranks=12, device=torch.device("cpu")))


@pytest.mark.parametrize(
    ("changes", "described"),
    [
        ({}, "16 x cpu"),
        ({"shard_ranks": 16}, "16 x cpu"),
        ({"shard_ranks": 8, "cpu_offload": True}, "2 x 8 x cpu, offloaded to the host"),
        ({"shard_ranks": 1}, "16 x 1 x cpu"),
    ],
)
def test_a_placement_is_told(changes: dict[str, Any], described: str) -> None:
    world = World(rank=0, ranks=16, device=torch.device("cpu"))
    assert describe_ranks(make_config(**changes), world) == described


def test_one_copy_is_plain_fsdp(world: World) -> None:
    meshes = [make_mesh(shard_ranks, world) for shard_ranks in (None, 1)]
    assert [mesh.mesh_dim_names for mesh in meshes] == [("shard",), ("shard",)]
