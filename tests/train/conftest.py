"""Data sets made by hand: a pack is a list of documents, a document is its ids, channels and weights."""

import hashlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from forked_ranks import ForkedRanks
from shelf import shelf  # noqa: F401 - a fixture

from schemas.channels import NO_LOSS, Part, Role, pack_channel
from schemas.generations import load_chain
from schemas.manifest import (
    MANIFEST,
    Channels,
    Holdout,
    Manifest,
    Parent,
    Rejects,
    ShardFile,
    TokenizerFacts,
    Totals,
    TurnCounts,
    Turns,
    manifest_name,
)
from schemas.shard import Packs, ShardMeta, write_shard
from schemas.store import Folder

SEQ_LEN, VOCAB_SIZE, PAD_ID = 16, 50, 49
REPOSITORY = Path(__file__).parents[2]

PROMPT = pack_channel(Role.USER, Part.BODY)
ANSWER = pack_channel(Role.ASSISTANT, Part.BODY, last_turn=True)
CLOSED = pack_channel(Role.ASSISTANT, Part.BODY, no_loss=True)


@dataclass(frozen=True)
class Doc:
    ids: list[int]
    channel: list[int]
    weight: list[float]


Dataset: TypeAlias = Sequence[Sequence[Doc]]


def make_doc(rng: np.random.Generator, length: int, answer: int) -> Doc:
    """A document whose last `answer` tokens are an assistant's; its first token is never trained."""
    channel = [PROMPT] * (length - answer) + [ANSWER] * answer
    channel[0] |= NO_LOSS
    weight = rng.choice([0.25, 0.5, 1.0, 2.0], size=length)
    return Doc(rng.integers(0, PAD_ID, length).tolist(), channel, weight.tolist())


def build_packs(packs: Dataset, weights: bool, seq_len: int) -> Packs:
    def tokens(field: str, padding: float, dtype: Any) -> Any:
        array = np.full((len(packs), seq_len), padding, dtype=dtype)
        for row, pack in zip(array, packs, strict=True):
            values = [value for doc in pack for value in getattr(doc, field)]
            row[: len(values)] = values
        return array

    lengths = np.array([len(doc.ids) for pack in packs for doc in pack], dtype=np.int32)
    zeros = np.zeros(len(lengths), dtype=np.int32)
    return Packs(
        input_ids=tokens("ids", PAD_ID, np.int32),
        channel=tokens("channel", 0, np.uint8),
        doc_offsets=np.cumsum([0, *map(len, packs)]).astype(np.int32),
        doc_lengths=lengths,
        doc_source=zeros,
        doc_position=np.arange(len(lengths), dtype=np.int64),
        doc_piece=zeros,
        weight=tokens("weight", 0, np.float32) if weights else None,
    )


def build_shard(folder: Path, name: str, packs: Dataset, weights: bool, seq_len: int, recipe_id: str) -> ShardFile:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = ShardMeta(seq_len, recipe_id, PAD_ID, tokenizer_sha256="c" * 64)
    with path.open("wb") as sink:
        write_shard(build_packs(packs, weights, seq_len), meta, sink)
    lengths = [len(doc.ids) for pack in packs for doc in pack]
    return ShardFile(
        name=name,
        bytes=path.stat().st_size,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        packs=len(packs),
        documents=len(lengths),
        tokens=sum(lengths),
    )


def build_manifest(packs: Dataset, shards: list[ShardFile], seq_len: int) -> Manifest:
    histogram = Counter(str(byte) for pack in packs for doc in pack for byte in doc.channel)
    tokens = sum(shard.tokens for shard in shards)
    return Manifest(
        id="a" * 64,
        recipe_id="b" * 64,
        seq_len=seq_len,
        vocab_size=VOCAB_SIZE,
        bos_id=None,
        eos_id=None,
        pad_id=PAD_ID,
        end_ids=[],
        tokenizer=TokenizerFacts(kind="huggingface", sha256="c" * 64, engine="none", libraries={}),
        chat_template=None,
        clock="2026-01-01T00:00:00Z",
        config={},
        sources=[],
        shards=shards,
        holdout=None,
        rejects=Rejects(counts={}, files=[]),
        channels=Channels(total=dict(histogram), sources={}),
        turns=Turns(total=TurnCounts(), sources={}),
        totals=Totals(
            rows=0,
            rejects=0,
            packs=len(packs),
            documents=sum(map(len, packs)),
            tokens=tokens,
            truncated=0,
            straddling=0,
        ),
        fill=tokens / (len(packs) * seq_len) if packs else 0.0,
        certificate=None,
        generation=0,
        parent=None,
    )


def build_dataset(
    folder: Path,
    packs: Dataset,
    *,
    weights: bool = False,
    seq_len: int = SEQ_LEN,
    packs_per_shard: int = 3,
    recipe_id: str = "b" * 64,
    holdout: Dataset = (),
) -> str:
    """Write a data set and give its path. `recipe_id` is what the shards say; the manifest says b..."""
    shards = [
        build_shard(
            folder,
            f"shards/{start:05d}.arrow",
            packs[start : start + packs_per_shard],
            weights,
            seq_len,
            recipe_id,
        )
        for start in range(0, len(packs), packs_per_shard)
    ]
    manifest = build_manifest(packs, shards, seq_len)
    if holdout:
        apart = build_shard(folder, "shards/holdout.arrow", holdout, weights, seq_len, recipe_id)
        channels = build_manifest(holdout, [apart], seq_len).channels.total
        manifest = manifest.model_copy(update={"holdout": Holdout(share=0.1, shards=[apart], channels=channels)})
    (folder / "tokenizer").mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer" / "tokenizer_config.json").write_text("{}")
    (folder / MANIFEST).write_bytes(manifest.encode())
    return str(folder)


def add_generation(folder: Path, packs: Dataset) -> int:
    """Publish the data set's next generation and give its number."""
    chain = load_chain(Folder(str(folder)))
    number, parent = len(chain), manifest_name(len(chain) - 1)
    shard = build_shard(folder, f"shards/g{number:04}-00000.arrow", packs, False, SEQ_LEN, "b" * 64)
    digest = hashlib.sha256((folder / parent).read_bytes()).hexdigest()
    links = {"id": f"{number:064x}", "generation": number, "parent": Parent(name=parent, sha256=digest)}
    manifest = build_manifest(packs, [shard], SEQ_LEN).model_copy(update=links)
    (folder / manifest_name(number)).write_bytes(manifest.encode())
    return number


def unequal_packs() -> Dataset:
    """Five packs of which the second and the fourth train nothing, and the others train unequal numbers of tokens."""
    rng = np.random.default_rng(7)
    return [
        [make_doc(rng, 6, 4), make_doc(rng, 7, 2)],
        [make_doc(rng, 16, 0)],
        [make_doc(rng, 9, 8), make_doc(rng, 2, 1), make_doc(rng, 5, 2)],
        [make_doc(rng, 3, 0), make_doc(rng, 8, 0)],
        [make_doc(rng, 12, 3)],
    ]


@pytest.fixture(name="make_doc")
def make_doc_fixture() -> Callable[..., Doc]:
    return make_doc


@pytest.fixture(name="doc_type")
def doc_type_fixture() -> type[Doc]:
    return Doc


@pytest.fixture(name="build_packs")
def build_packs_fixture() -> Callable[..., Packs]:
    return build_packs


@pytest.fixture(name="build_dataset", scope="session")
def build_dataset_fixture() -> Callable[..., str]:
    return build_dataset


@pytest.fixture(name="add_generation")
def add_generation_fixture() -> Callable[..., int]:
    return add_generation


@pytest.fixture(name="unequal_packs", scope="session")
def unequal_packs_fixture() -> Dataset:
    return unequal_packs()


@pytest.fixture(scope="session")
def launch() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program of the tests' own environment, as in launch("torchrun", ..., cwd=folder, KEY="value")."""
    programs = Path(sys.executable).parent
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"

    def run(
        program: str, *arguments: object, cwd: Path = REPOSITORY, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **variables}
        command = [str(programs / program), *map(str, arguments)]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)

    return run


@pytest.fixture(scope="session")
def build_weighted(build_dataset: Callable[..., str], unequal_packs: Dataset) -> Callable[[Path], list[dict[str, Any]]]:
    """Write two data sets into a folder, and give their entries of a config, with weights."""

    def build(folder: Path) -> list[dict[str, Any]]:
        return [
            {"path": build_dataset(folder / name, unequal_packs[start:]), "weight": weight}
            for name, start, weight in (("one", 0, 0.7), ("two", 2, 0.3))
        ]

    return build


@pytest.fixture(scope="session")
def fork_ranks() -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Run a program as ranks of one world, as in fork_ranks(2, "-m", "train", config, KEY="value"): what torchrun does,
    for tests that are not about torchrun."""
    ranks = ForkedRanks([REPOSITORY, REPOSITORY / "tests" / "support"])
    yield ranks.run
    ranks.close()
