"""Tokens a second of our step against the model of transformers with the same weights, on the same packs, in one run.

A step is forward, loss, backward and AdamW, in float32 on one core, with the attention that each takes by itself on a
CPU. Packs are of chats: many short documents and a few long ones, about two tokens in five trained. The two sides take
turns; seconds are of processor time, since others may share the machine. transformers computes the logits of all
places, as its users do.
Run from the checkout: `python tests/benchmarks/step.py`.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from train.architecture import PRESETS, Architecture
from train.attention import isolate
from train.loss import Trained
from train.model import Decoder
from train.weights import initialise

QWEN = {"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14}
SHAPES = {
    "small, vocabulary 5,000": PRESETS["small"].model_copy(update={"vocab_size": 5000}),
    "Qwen2.5-0.5B, 4 of 24 layers": Architecture.model_validate(
        {
            **QWEN,
            "num_hidden_layers": 4,
            "num_key_value_heads": 2,
            "vocab_size": 151_936,
            "rope_theta": 1e6,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
        }
    ),
}


@dataclass(frozen=True)
class Packed:
    """Rows of documents, full to the last place; int64[B, seq_len] each, trained as bool."""

    input_ids: Tensor
    position_ids: Tensor
    document_ids: Tensor
    trained: Tensor  # whether a token is an assistant's and so to be predicted


def chats(rng: np.random.Generator, length: int) -> np.ndarray:
    """bool[length]: turns of a user and an assistant, lognormal in length; the first token is the user's."""
    turns: list[bool] = []
    while len(turns) < length:
        turns += [False] * int(rng.lognormal(4.0, 0.8) + 4) + [True] * int(rng.lognormal(3.6, 0.8) + 4)
    return np.array(turns[:length])


def packs(rng: np.random.Generator, rows: int, seq_len: int, vocab_size: int) -> Iterator[Packed]:
    while True:
        position_ids, document_ids = np.zeros((2, rows, seq_len), dtype=np.int64)
        trained = np.zeros((rows, seq_len), dtype=bool)
        for row in range(rows):
            start = number = 0
            while start < seq_len:
                length = min(int(rng.lognormal(5.3, 0.9) + 16), seq_len - start)
                place = slice(start, start + length)
                position_ids[row, place] = np.arange(length)
                document_ids[row, place] = number
                trained[row, place] = chats(rng, length)
                start, number = start + length, number + 1
        input_ids = rng.integers(0, vocab_size, (rows, seq_len))
        yield Packed(*map(torch.from_numpy, (input_ids, position_ids, document_ids, trained)))


def our_loss(model: Decoder, packed: Packed) -> Tensor:
    isolation = isolate(packed.document_ids, borders(packed.position_ids), "varlen")
    places = packed.trained.flatten().nonzero()[:, 0] - 1  # what is trained never begins a document
    targets = packed.input_ids.flatten()[places + 1]
    weights = torch.full((len(places),), 1 / len(places), dtype=torch.float64)
    loss: Tensor = model(packed.input_ids, packed.position_ids, isolation, Trained(places, targets, weights))[0]
    return loss


def borders(position_ids: Tensor) -> Tensor:
    """int32[D + 1] of rows laid end to end."""
    starts = (position_ids.flatten() == 0).nonzero()[:, 0]
    return torch.cat((starts, torch.tensor([position_ids.numel()]))).int()


def their_loss(model: nn.Module, packed: Packed) -> Tensor:
    """It shifts the labels by itself, and keeps documents apart by the positions that restart."""
    labels = packed.input_ids.masked_fill(~packed.trained, -100)
    loss: Tensor = model(
        input_ids=packed.input_ids, position_ids=packed.position_ids, labels=labels, use_cache=False
    ).loss
    return loss


def make_models(shape: Architecture) -> tuple[Decoder, nn.Module]:
    """Ours and that of transformers, with equal weights."""
    ours = Decoder(shape)
    initialise(ours, seed=0)
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    sizes = {name: getattr(shape, name) for name in (*names, "vocab_size", "rms_norm_eps", "tie_word_embeddings")}
    rope = {"rope_type": "default", "rope_theta": shape.rope_theta}
    config = AutoConfig.for_model(shape.model_type, **sizes, rope_parameters=rope)
    theirs = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    weights = dict(ours.named_parameters())
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.copy_(weights.pop(name.removeprefix("model.")))
    assert not weights
    return ours, theirs


def make_step(model: nn.Module, loss_of: Callable[[nn.Module, Packed], Tensor]) -> Callable[[Packed], float]:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step(packed: Packed) -> float:
        loss = loss_of(model, packed)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def compare(shape: Architecture, rows: int, seq_len: int, steps: int) -> tuple[list[float], list[float], float, float]:
    """Seconds of each of our steps and of theirs, the share of trained tokens, the documents of a row."""
    assert shape.vocab_size
    stream = packs(np.random.default_rng(0), rows, seq_len, shape.vocab_size)
    ours, theirs = make_models(shape)
    sides = [make_step(ours, our_loss), make_step(theirs, their_loss)]
    seconds: tuple[list[float], list[float]] = ([], [])
    shares, documents = [], []
    for number in range(steps + 1):
        packed, losses = next(stream), [0.0, 0.0]
        for side in (0, 1) if number % 2 else (1, 0):
            began = time.process_time()
            losses[side] = sides[side](packed)
            if number:  # the first warms up
                seconds[side].append(time.process_time() - began)
        assert abs(losses[0] - losses[1]) < (1e-3 if number else 1e-5), losses
        shares.append(packed.trained.float().mean().item())
        documents.append((packed.position_ids == 0).sum().item() / rows)
    return *seconds, statistics.mean(shares), statistics.mean(documents)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--seq-len", type=int, nargs="+", default=[1024, 2048])
    parser.add_argument("--steps", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name, shape in SHAPES.items():
        for seq_len in arguments.seq_len:
            ours, theirs, share, documents = compare(shape, arguments.rows, seq_len, arguments.steps)
            tokens = arguments.rows * seq_len
            rates = [tokens / statistics.median(seconds) for seconds in (ours, theirs)]
            ratios = sorted(their / our for our, their in zip(ours, theirs, strict=True))
            print(
                f"{name}, seq_len {seq_len:,}, {documents:.0f} documents a pack, {share:.0%} trained: "
                f"ours {rates[0]:,.0f} tokens/s, transformers {rates[1]:,.0f}, "
                f"ratio {rates[0] / rates[1]:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
