"""How far apart the ranks are when packs are dealt in turn, and when they are dealt by cost, and what it is worth.

spread   (most attention of a rank) / (mean of the ranks), of a step, the mean of all steps
waiting  share of a step's time in which a rank waits for others, on the mean of ranks: all operations of training
         (train.flops) take their time, and the ranks wait for each other in every micro-batch. `attention`: as if all
         packs trained as many tokens; `all`: with the vocabulary computed at the trained places that they have

Data sets are built of real rows (a folder with gsm8k.jsonl, the conversations of the other files here), at 32,768 also
of log-normal lengths. Run from the checkout: `python tests/benchmarks/balance.py --rows FOLDER`.
"""

import argparse
import json
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from measure import PACKLINE, RANKS
from rows import write_rows
from tables import markdown_table

from pipeline.pack import pack_lengths
from schemas.policy import PRESETS
from train.architecture import Architecture
from train.deal import Hand, deal_by_cost, deal_in_turn
from train.flops import count_pairs, step_flops
from train.order import PackOrder
from train.packs import ShardedPacks, find_borders

STEPS = 200
MODELS = {
    "1B": Architecture(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8,
        head_dim=64, vocab_size=128_256,
    ),
    "8B": Architecture(
        hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=128_256,
    ),
}  # fmt: skip

Floats = npt.NDArray[np.float64]


class Lengths(NamedTuple):
    """P packs."""

    name: str
    seq_len: int
    documents: float  # of a pack, in the mean
    pairs: Sequence[int]  # [P], those of the padding, too
    trained: Sequence[int]  # [P]


def read_lengths(name: str, path: str, policy: str) -> Lengths:
    packs = ShardedPacks(path)
    seq_len, table = packs.manifest.seq_len, PRESETS[policy].table()
    found = [packs[number] for number in range(len(packs))]
    pairs = [count_pairs(np.diff(find_borders(pack.doc_lengths, seq_len)).tolist()) for pack in found]
    trained = [int(table[pack.channel].sum()) for pack in found]
    return Lengths(name, seq_len, float(np.mean([len(pack.doc_lengths) for pack in found])), pairs, trained)


def log_normal(seq_len: int, median: int, sigma: float) -> Lengths:
    """What is longer than a pack fills one."""
    lengths = np.random.default_rng(0).lognormal(np.log(median), sigma, 40_000).clip(16, seq_len).astype(np.int64)
    plan = pack_lengths(lengths, seq_len)
    rows = np.split(lengths[plan.documents], plan.offsets[1:-1])
    pairs = [count_pairs(np.diff(find_borders(row.astype(np.int32), seq_len)).tolist()) for row in rows]
    return Lengths(f"log-normal, median {median:,}, sigma {sigma}", seq_len, len(lengths) / len(rows), pairs,
                   [seq_len] * len(rows))  # fmt: skip


def steps_of(packs: int, packs_per_step: int) -> Iterator[list[int]]:
    order = PackOrder([packs], seed=0)
    for step in range(STEPS):
        yield order.take(step * packs_per_step, packs_per_step).tolist()


def add_up(hands: Sequence[Hand], costs: Floats) -> Floats:
    """float64[ranks, micro-batches]"""
    return np.array([[costs[own].sum() for own in hand] for hand in hands])


def measure(
    lengths: Lengths, packs_per_step: int, ranks: int, size: int, deal: Callable[[Sequence[int]], Sequence[Hand]]
) -> list[float]:
    """The spread; then the share of waiting: of each model by attention alone, and with the trained tokens."""
    pairs, trained = np.array(lengths.pairs, dtype=np.float64), np.array(lengths.trained, dtype=np.float64)
    flops = [
        price(model, lengths.seq_len, pairs, tokens)
        for model in MODELS.values()
        for tokens in (np.full_like(trained, trained.mean()), trained)
    ]
    spreads, times = [], []
    for step in steps_of(len(pairs), packs_per_step):
        hands = deal([lengths.pairs[pack] for pack in step])
        totals = add_up(hands, pairs[step]).sum(axis=1)
        spreads.append(totals.max() / totals.mean())
        times.append([(done.sum() / ranks, done.max(axis=0).sum()) for done in (add_up(hands, f[step]) for f in flops)])
    busy, whole = np.array(times).sum(axis=0).T
    return [float(np.mean(spreads)), *(1 - busy / whole).tolist()]


def price(model: Architecture, seq_len: int, pairs: Floats, trained: Floats) -> Floats:
    """The operations of each pack."""

    def one(pairs: float, trained: float) -> float:
        return step_flops(model, tokens=seq_len, trained_tokens=int(trained), pairs=int(pairs))

    return np.array([one(*each) for each in zip(pairs, trained, strict=True)], dtype=np.float64)


def compare(lengths: Lengths, packs_per_step: int, ranks: int, size: int) -> list[str]:
    before = measure(lengths, packs_per_step, ranks, size, lambda costs: deal_in_turn(len(costs), ranks, size))
    after = measure(lengths, packs_per_step, ranks, size, lambda costs: deal_by_cost(costs, ranks, size))
    waiting = [f"{old:.1%} -> {new:.1%}" for old, new in zip(before[1:], after[1:], strict=True)]
    cells = [lengths.name, f"{lengths.seq_len:,}", f"{lengths.documents:.1f}", str(packs_per_step)]
    return [*cells, f"{before[0]:.3f} -> {after[0]:.3f}", *waiting]


GSM8K = {"type": "columns", "input": "question", "output": "answer"}


def write_files(path: Path, megabytes: float) -> None:
    """The Python files of the installed packages, each a document: lengths with a long tail."""
    left = megabytes * 1e6
    with path.open("w", encoding="utf-8") as file:
        for source in sorted(Path(sysconfig.get_paths()["purelib"]).rglob("*.py")):
            text = source.read_text("utf-8", errors="ignore")
            if left > 0 and text.strip():
                file.write(json.dumps({"text": text}) + "\n")
                left -= len(text)


def build(folder: Path, seq_len: int, sources: Sequence[dict[str, Any]]) -> str:
    config = {
        "output": str(folder), "seq_len": seq_len, "tokenizer": RANKS, "too_long": "truncate", "sources": sources,
        "max_reject_fraction": 1.0,
    }  # fmt: skip
    path = folder.with_suffix(".yaml")
    path.write_text(json.dumps(config), "utf-8")
    subprocess.run([PACKLINE, "build", str(path)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return str(folder)


def make_lengths(rows: Path, scratch: Path, megabytes: float) -> Iterator[Lengths]:
    for kind in ("code", "agents"):
        write_rows(kind, scratch / f"{kind}.jsonl", megabytes)
    write_files(scratch / "files.jsonl", megabytes)
    sources = {
        "gsm8k": ([{"path": str(rows / "gsm8k.jsonl"), "transform": GSM8K}], "assistant"),
        "chats about code": ([{"path": str(scratch / "code.jsonl"), "transform": {"type": "openai"}}], "assistant"),
        "chats with tools": ([{"path": str(scratch / "agents.jsonl"), "transform": {"type": "openai"}}], "assistant"),
        "whole source files": ([{"path": str(scratch / "files.jsonl"), "transform": {"type": "text"}}], "all"),
    }
    for seq_len in (4096, 8192, 32_768):
        for number, (name, (entries, policy)) in enumerate(sources.items()):
            if seq_len < 32_768 or name == "whole source files":
                yield read_lengths(name, build(scratch / f"{number}-{seq_len}", seq_len, entries), policy)
    yield log_normal(32_768, 1000, 1.5)
    yield log_normal(32_768, 8000, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--megabytes", type=float, default=30)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--packs-per-microbatch", type=int, default=1)
    arguments = parser.parse_args()
    header = ["data", "seq_len", "documents a pack", "packs a step", "spread"]
    header += [f"waiting, {model}, {what}" for model in MODELS for what in ("attention", "all")]
    with tempfile.TemporaryDirectory() as scratch:
        lines = [
            compare(lengths, packs_per_step, arguments.ranks, arguments.packs_per_microbatch)
            for lengths in make_lengths(arguments.rows, Path(scratch), arguments.megabytes)
            for packs_per_step in (16, 64, 512)
        ]
    print(markdown_table(header, lines))


if __name__ == "__main__":
    main()
