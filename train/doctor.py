"""The doctor: real packs through the real model, dtype, kernel and compiler, to show that documents are isolated.

Each document's losses in its pack are compared with those of the document alone; then one document is changed, which
must move no other's losses by a single bit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from train.attention import Kernel
from train.batch import Batch, Entry, make_batch
from train.config import TrainConfig
from train.model import Decoder
from train.packs import Pack, ShardedPacks
from train.parallel import World, describe_ranks, join_world
from train.plan import plan_run
from train.run import find_kernel, make_model
from train.step import run_model

PACKS, DOCUMENTS = 2, 12
"""Packs to look at, and the most documents of each that are run alone."""

TOLERANCE = {"float64": 1e-10, "float32": 1e-4, "bfloat16": 0.05}
"""Largest mean difference of a token's loss, in nats: packed and alone, sums are rounded in another order."""

_ALL_TOKENS = np.ones(256, dtype=np.bool_)


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    ok: bool

    def __str__(self) -> str:
        return f"{'ok    ' if self.ok else 'FAILED'} {self.what}"


def examine(config: TrainConfig) -> bool:
    """Print what is found; whether all is well. Every rank must call it, and all run the same packs."""
    plan = plan_run(config, "doctor")
    with join_world() as world:
        kernel = find_kernel(plan, world)
        patient = Patient(config, make_model(config, plan.architecture, world), kernel, world)
        compiled = "compiled" if config.compile else "not compiled"
        world.say(f"{describe_ranks(config, world)}, attention by {kernel}, {config.dtype}, {compiled}")
        findings = []
        for dataset, entry in zip(plan.datasets, config.datasets, strict=True):
            for number in _packs_with_documents(dataset):
                world.say(f"{entry.path}, pack {number}")
                for finding in patient.look_at(replace(dataset[number], weight=None)):
                    world.say(f"  {finding}")
                    findings.append(finding)
        if not findings:
            world.say("no pack holds two documents: there is nothing that could leak")
        return all(finding.ok for finding in findings)


@dataclass(frozen=True, slots=True)
class Patient:
    config: TrainConfig
    model: Decoder
    kernel: Kernel
    world: World

    def look_at(self, pack: Pack) -> Iterator[Finding]:
        chosen = _spread(np.flatnonzero(pack.doc_lengths > 1).tolist(), DOCUMENTS)
        packed = self.losses(pack)
        yield self._compare(pack, packed, chosen)
        for document in sorted({chosen[0], chosen[len(chosen) // 2], chosen[-1]}):
            yield self._change(pack, packed, document)

    def losses(self, pack: Pack) -> list[Tensor]:
        """The losses of each document's tokens but the first."""
        batch = self._batch(pack)
        with torch.no_grad():
            _, losses = run_model(self.model, batch.to(self.world.device), self.kernel, divisor=1.0)
        return list(torch.split(losses.cpu(), (pack.doc_lengths - 1).tolist()))

    def _batch(self, pack: Pack) -> Batch:
        seq_len = len(pack.input_ids)
        entry = Entry(pack, _ALL_TOKENS, first_group=0, by_source=False)
        return make_batch([entry], self.config.packs_per_microbatch, seq_len, per_document=False)

    def _compare(self, pack: Pack, packed: Sequence[Tensor], chosen: Sequence[int]) -> Finding:
        alone = torch.cat([self.losses(_alone(pack, document))[0] for document in chosen])
        together = torch.cat([packed[document] for document in chosen])
        differences = (alone - together).abs()
        mean, most = float(differences.mean()), float(differences.max())
        return Finding(
            f"{len(chosen)} documents alone and in their pack: losses differ by {mean:.2g} in the mean, {most:.2g} at "
            f"most (mean loss {float(alone.mean()):.4f})",
            mean <= TOLERANCE[self.config.dtype],
        )

    def _change(self, pack: Pack, before: Sequence[Tensor], document: int) -> Finding:
        after = self.losses(_changed(pack, document, self.model.architecture.vocab_size or 0))
        moved = [float((old - new).abs().sum()) for old, new in zip(before, after, strict=True)]
        own = moved.pop(document)
        others = sum(loss > 0 for loss in moved)
        return Finding(
            f"document {document} changed: its own losses moved by {own:.4g} in all, "
            f"those of {others} of {len(moved)} other documents moved",
            own > 0 and not others,
        )


def _packs_with_documents(dataset: ShardedPacks) -> list[int]:
    """The first packs that hold two documents of two tokens."""
    found = (number for number in range(len(dataset)) if (dataset[number].doc_lengths > 1).sum() > 1)
    return [number for number, _ in zip(found, range(PACKS), strict=False)]


def _spread(items: Sequence[int], most: int) -> list[int]:
    """At most so many of the items, evenly, the first and the last among them."""
    chosen = np.linspace(0, len(items) - 1, min(len(items), most)).round().astype(int)
    return [items[index] for index in chosen.tolist()]


def _place(pack: Pack, document: int) -> slice:
    end = int(pack.doc_lengths[: document + 1].sum())
    return slice(end - int(pack.doc_lengths[document]), end)


def _alone(pack: Pack, document: int) -> Pack:
    """A pack that holds this document only."""
    own = pack.input_ids[_place(pack, document)]
    input_ids, channel = np.zeros_like(pack.input_ids), np.zeros_like(pack.channel)
    input_ids[: len(own)] = own
    return replace(
        pack,
        input_ids=input_ids,
        channel=channel,
        doc_lengths=pack.doc_lengths[document : document + 1],
        doc_source=pack.doc_source[document : document + 1],
    )


def _changed(pack: Pack, document: int, vocab_size: int) -> Pack:
    own = _place(pack, document)
    input_ids = pack.input_ids.copy()
    input_ids[own] = (input_ids[own] + 1) % vocab_size
    return replace(pack, input_ids=input_ids)
