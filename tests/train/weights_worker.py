"""Run by each rank in test_sharded_weights.py: models loaded into shards, run, exported, and initialised.

usage: weights_worker.py DATASET OUTPUT_FOLDER MODEL_FOLDER...; rank 0 writes facts and folders into OUTPUT_FOLDER.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from document_rows import rows_of
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import OffloadPolicy
from torch.distributed.tensor import DTensor

from train import export
from train.architecture import Architecture
from train.attention import isolate
from train.loss import Trained
from train.model import Decoder
from train.model_folder import read_architecture
from train.packs import ShardedPacks
from train.parallel import end_process, shard_model
from train.serving import serving_files
from train.weights import initialise, load_weights, stream_full


def make_shards(architecture: Architecture) -> Decoder:
    with torch.device("meta"):
        model = Decoder(architecture)
    shard_model(model, init_device_mesh("cpu", (dist.get_world_size(),)), torch.float32, OffloadPolicy())
    model.to_empty(device="cpu")
    return model


def count_parameters(model: Decoder) -> dict[str, Any]:
    """What each rank holds, and the whole."""
    parameters = list(model.parameters())
    assert all(isinstance(parameter, DTensor) for parameter in parameters)
    held = [0] * dist.get_world_size()
    dist.all_gather_object(held, sum(parameter.to_local().untyped_storage().nbytes() for parameter in parameters))
    empty = [0] * dist.get_world_size()
    dist.all_gather_object(empty, sum(parameter.to_local().numel() == 0 for parameter in parameters))
    return {"held": held, "empty": empty, "whole": sum(parameter.nbytes for parameter in parameters)}


def run_model(model: Decoder) -> dict[str, float]:
    """The loss of one batch, and the norm of each gradient. Each rank adds an equal share of the same batch."""
    ranks = dist.get_world_size()
    position_ids, document_ids, cu_seqlens = rows_of([[7, 3], [12]], 12)
    input_ids = torch.arange(24).view(2, 12) * 5 % 96
    places = torch.tensor([0, 4, 8, 13, 20])
    trained = Trained(places, input_ids.flatten()[places + 1], torch.full((5,), 1 / ranks, dtype=torch.float64))
    loss, _ = model(input_ids, position_ids, isolate(document_ids, cu_seqlens, "sdpa"), trained)
    loss.backward()
    norms = {}
    for name, parameter in model.named_parameters():
        assert isinstance(parameter.grad, DTensor)
        norms[name] = parameter.grad.full_tensor().norm().item()
    return {"loss": loss.item() * ranks, **norms}


def main() -> None:
    dataset, output, *folders = map(Path, sys.argv[1:])
    dist.init_process_group("gloo")
    export.MAX_FILE_BYTES = 20_000
    facts = {}
    for folder in folders:
        model = make_shards(read_architecture(folder))
        load_weights(model, folder)
        files = serving_files(model.architecture, [ShardedPacks(str(dataset))], folder, "float32")
        export.export(model, output / folder.name, files, torch.float32)
        facts[folder.name] = {**count_parameters(model), "run": run_model(model)}
        initialise(model, seed=4)
        fresh = {name: tensor.clone() for name, tensor in stream_full(model)}
        if dist.get_rank() == 0:
            save_file(fresh, output / f"{folder.name}.fresh")
    if dist.get_rank() == 0:
        (output / "facts.json").write_text(json.dumps(facts))
    dist.barrier()
    dist.destroy_process_group()
    end_process(0)


if __name__ == "__main__":
    main()
