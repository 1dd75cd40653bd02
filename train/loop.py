"""A training run, from the config to the weights. Every rank runs all of it; rank 0 alone prints and writes."""

from typing import Any

import torch
from torch import nn

from schemas.errors import ConfigError
from train.batch import load_batch
from train.checkpoint import WEIGHTS, save_weights
from train.config import TrainConfig
from train.data import PackedDataset, check_vocabulary, count_trained_tokens
from train.metrics import METRICS, MetricsLog, StepMetrics
from train.model import Decoder
from train.optim import learning_rate_at, make_optimizer, update
from train.order import PackOrder, deal
from train.parallel import World, join_world, shard_model
from train.step import accumulate_gradients, count_step


def train(config: TrainConfig) -> None:
    """Train and save. What is wrong with config or data is raised before the ranks meet (ConfigError, DatasetError)."""
    _check_output(config)
    dataset = PackedDataset(config.dataset.path)
    trained_tokens = count_trained_tokens(dataset.manifest, config.loss_policy)
    vocab_size = check_vocabulary(dataset.manifest, config.model.vocab_size)
    with join_world() as world:
        model = make_model(config, vocab_size, world)
        world.say(f"{len(dataset):,} packs of {dataset.manifest.seq_len:,} tokens, {trained_tokens:,} tokens trained")
        world.say(f"{count_parameters(model):,} parameters in {config.dtype} on {world.ranks} x {world.device.type}")
        skipped = run_steps(config, dataset, model, world)
        world.say(f"{config.steps - skipped} steps done, {skipped} skipped for want of a trained token")
        save_weights(model, _describe(config, dataset, vocab_size), config.output, world.rank)
        world.say(f"weights in {config.output / WEIGHTS}")


def _check_output(config: TrainConfig) -> None:
    for name in (METRICS, WEIGHTS):
        if (config.output / name).exists():
            raise ConfigError(
                f"output {config.output} already holds {name} of another run; "
                "choose another folder with --set output=FOLDER, or remove this one"
            )


def make_model(config: TrainConfig, vocab_size: int, world: World) -> Decoder:
    """The same weights on any number of ranks: each rank makes them all from the seed and keeps its share."""
    torch.manual_seed(config.seed)
    compute_dtype: torch.dtype = getattr(torch, config.dtype)
    model = Decoder(config.model, vocab_size).to(torch.promote_types(compute_dtype, torch.float32))
    model.to(world.device)
    shard_model(model, world.mesh, compute_dtype)
    return model


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def run_steps(config: TrainConfig, dataset: PackedDataset, model: nn.Module, world: World) -> int:
    """Returns the number of steps that were skipped, because no token of theirs is trained."""
    order = PackOrder(len(dataset), config.seed)
    trained = config.loss_policy.table()
    optimizer = make_optimizer(model, config)
    log = MetricsLog(config.output, config.log_every) if world.rank == 0 else None
    skipped = 0
    for step in range(config.steps):
        packs = order.take(step * config.packs_per_step, config.packs_per_step)
        mine = deal(packs, world.rank, world.ranks, config.packs_per_microbatch)
        microbatches = [load_batch(dataset, numbers, config.packs_per_microbatch, trained) for numbers in mine]
        count = count_step(microbatches, world)
        if not count.weight:
            skipped += 1
            continue
        loss = accumulate_gradients(model, microbatches, count, world)
        lr = learning_rate_at(step, config)
        grad_norm = update(optimizer, model, lr, config.clip_norm)
        if log:
            log.add(StepMetrics(step + 1, loss, count.trained_tokens, count.tokens, grad_norm, lr))
    return skipped


def _describe(config: TrainConfig, dataset: PackedDataset, vocab_size: int) -> dict[str, Any]:
    return {
        "model": {**config.model.model_dump(), "vocab_size": vocab_size},
        "dataset": {"id": dataset.manifest.id, "recipe_id": dataset.manifest.recipe_id},
        "steps": config.steps,
    }
