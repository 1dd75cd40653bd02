"""`packline verify`: a data set against its manifest, whoever built it. Each finding is one line."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.write import channels_by_source
from schemas.channels import LEGAL, NO_LOSS
from schemas.errors import DatasetError
from schemas.generations import Generation, load_chain, merge_generations
from schemas.golden import GOLDEN, decode_golden
from schemas.manifest import Manifest, RejectFile, ShardFile, add_histograms, add_turns, manifest_name
from schemas.shard import Packs, Shard, map_shard, read_shard, tokens_per_pack
from schemas.splitmix import mix
from schemas.store import Folder, dataset_folder


def verify(url: str, profile: str | None = None, *, deep: bool, generation: Generation = "latest") -> Iterator[str]:
    """The problems of a data set as it was at a generation. Raises DatasetError where there is no manifest to go by, or
    one that is not the child of the one before."""
    folder = dataset_folder(url, profile)
    chain = load_chain(folder, generation)
    for each in chain:
        yield from _check_totals(each)
        yield from _check_rejects(folder, each, deep)
    manifest = merge_generations(chain)
    yield from _check_taken_once(manifest)
    yield from _check_template(folder, manifest)
    yield from _check_golden(folder, manifest)
    training, held_out = Tally(), Tally()
    holdout_shards = manifest.holdout.shards if manifest.holdout else []
    for shards, tally in ((manifest.shards, training), (holdout_shards, held_out)):
        for file in shards:
            yield from _check_shard(folder, file, manifest, tally if deep else None)
    if deep:
        yield from _check_histograms(manifest, training.histograms, held_out.histograms)
        yield from _check_documents(manifest, [*training.documents, *held_out.documents], training.rows + held_out.rows)


@dataclass
class Tally:
    """What the shards of a part of the data set hold."""

    rows: int = 0  # whose first document is there
    documents: list[npt.NDArray[np.uint64]] = field(default_factory=list)  # keys, an array a record batch
    histograms: list[dict[str, dict[str, int]]] = field(default_factory=list)


def _check_shard(folder: Folder, file: ShardFile, manifest: Manifest, tally: Tally | None) -> Iterator[str]:
    """With a tally every token is read, and what is there is added to it."""
    shard = _open(folder, file)
    if isinstance(shard, str):
        yield shard
        return
    yield from _check_footer(shard, file, manifest)
    if tally is None:
        return
    yield from _check_hash(folder, file)
    for packs in shard.batches:
        yield from (f"{file.name}: {problem}" for problem in _check_batch(packs, manifest, tally))
    yield from _check_counts(shard, file)


def _check_batch(packs: Packs, manifest: Manifest, tally: Tally) -> Iterator[str]:
    yield from check_packs(packs, manifest)
    tally.rows += _count_rows(packs)
    tally.documents.append(_document_keys(packs))
    tally.histograms.append(channels_by_source(packs))


def _check_documents(manifest: Manifest, documents: list[npt.NDArray[np.uint64]], rows: int) -> Iterator[str]:
    keys = np.concatenate([np.zeros(0, np.uint64), *documents])
    if len(np.unique(keys)) != len(keys):
        yield "a document is there twice: two packs hold the same source, position and piece"
    expected = manifest.totals.rows - manifest.totals.rejects
    if rows != expected:
        yield f"manifest.json: {expected} rows should have documents, {rows} have"


def _open(folder: Folder, file: ShardFile) -> Shard | str:
    """The shard, or what is wrong with it."""
    wrong = _wrong_size(folder, file)
    if wrong:
        return wrong
    try:
        if folder.is_local:
            return map_shard(folder.local_path(file.name))
        return read_shard(pa.py_buffer(folder.read(file.name)), file.name)
    except DatasetError as error:
        return str(error)


def _wrong_size(folder: Folder, file: ShardFile | RejectFile) -> str | None:
    size = folder.size(file.name)
    if size == file.bytes:
        return None
    return f"{file.name}: {'missing' if size is None else f'{size} bytes'}, the manifest says {file.bytes}"


def _check_taken_once(manifest: Manifest) -> Iterator[str]:
    taken = Counter((source.setting, source.path) for source in manifest.sources)
    yield from (f"{path} is there twice as a source" for (_, path), times in taken.items() if times > 1)


def _check_totals(manifest: Manifest) -> Iterator[str]:
    totals, name = manifest.totals, manifest_name(manifest.generation)
    sums = {
        "packs": sum(file.packs for file in manifest.shards),
        "documents": sum(file.documents for file in manifest.shards),
        "tokens": sum(file.tokens for file in manifest.shards),
        "rejects": sum(manifest.rejects.counts.values()),
        "rows": sum(source.rows for source in manifest.sources),
    }
    for key, found in sums.items():
        if found != getattr(totals, key):
            yield f"{name}: totals.{key} is {getattr(totals, key)}, its parts add up to {found}"
    if add_turns(manifest.turns.sources.values()) != manifest.turns.total:
        yield f"{name}: turns.total is not the sum of turns.sources"


def _check_rejects(folder: Folder, manifest: Manifest, deep: bool) -> Iterator[str]:
    listed = sum(file.rows for file in manifest.rejects.files)
    if listed != manifest.totals.rejects:
        yield f"{manifest_name(manifest.generation)}: {manifest.totals.rejects} rejects, the reject files hold {listed}"
    for file in manifest.rejects.files:
        wrong = _wrong_size(folder, file)
        if wrong:
            yield wrong
        elif deep:
            yield from _check_hash(folder, file)


def _check_template(folder: Folder, manifest: Manifest) -> Iterator[str]:
    """The template that a server will take from `tokenizer/` is the one that was trained on."""
    if manifest.chat_template is None:
        return
    name = "tokenizer/chat_template.jinja"
    found = hashlib.sha256(folder.read(name)).hexdigest() if folder.size(name) is not None else "missing"
    if found != manifest.chat_template.sha256:
        yield f"{name}: {found[:12]}, the manifest says {manifest.chat_template.sha256[:12]}"


def _check_golden(folder: Folder, manifest: Manifest) -> Iterator[str]:
    """The golden vectors, where there are any, are those of this template."""
    name = f"tokenizer/{GOLDEN}"
    if manifest.chat_template is None or folder.size(name) is None:
        return
    try:
        found = decode_golden(folder.read(name), name).chat_template_sha256
    except DatasetError as error:
        yield str(error)
        return
    if found != manifest.chat_template.sha256:
        yield f"{name}: of the template {found[:12]}, the manifest says {manifest.chat_template.sha256[:12]}"


def _check_hash(folder: Folder, file: ShardFile | RejectFile) -> Iterator[str]:
    found = folder.sha256(file.name)
    if found != file.sha256:
        yield f"{file.name}: its sha256 is {found[:12]}..., the manifest says {file.sha256[:12]}..."


def _check_footer(shard: Shard, file: ShardFile, manifest: Manifest) -> Iterator[str]:
    pairs = {
        "seq_len": (shard.meta.seq_len, manifest.seq_len),
        "recipe_id": (shard.meta.recipe_id, manifest.recipe_id),
        "pad_id": (shard.meta.pad_id, manifest.pad_id),
        "tokenizer_sha256": (shard.meta.tokenizer_sha256, manifest.tokenizer.sha256),
        "packs": (len(shard), file.packs),
    }
    for name, (found, expected) in pairs.items():
        if found != expected:
            yield f"{file.name}: {name} is {found}, the manifest says {expected}"


def _check_counts(shard: Shard, file: ShardFile) -> Iterator[str]:
    documents = sum(len(packs.doc_lengths) for packs in shard.batches)
    tokens = sum(int(packs.doc_lengths.sum()) for packs in shard.batches)
    if (documents, tokens) != (file.documents, file.tokens):
        yield (
            f"{file.name}: {documents} documents and {tokens} tokens, "
            f"the manifest says {file.documents} and {file.tokens}"
        )


def check_packs(packs: Packs, manifest: Manifest) -> Iterator[str]:
    """The laws of the format that every pack keeps."""
    filled = _filled(packs)
    starts = _document_starts(packs)
    laws = {
        f"a token id is not in [0, {manifest.vocab_size})": _out_of(packs.input_ids, manifest.vocab_size),
        "padding is not the pad id": bool((packs.input_ids[~filled] != manifest.pad_id).any()),
        "padding has a channel": bool(packs.channel[~filled].any()),
        "a channel byte is not legal": not LEGAL[packs.channel].all(),
        "a document's first token may be trained": not (packs.channel[starts] & NO_LOSS).all(),
        "a document's source is not in the manifest": _out_of(packs.doc_source, len(manifest.sources)),
        "a document's position or piece is negative": bool(
            (packs.doc_position < 0).any() or (packs.doc_piece < 0).any()
        ),
        "a weight is negative or not finite": packs.weight is not None
        and not (np.isfinite(packs.weight).all() and (packs.weight >= 0).all()),
        "padding has a weight": packs.weight is not None and bool(packs.weight[~filled].any()),
    }
    yield from (law for law, broken in laws.items() if broken)


def _out_of(values: npt.NDArray[np.int32], limit: int) -> bool:
    return bool(len(values)) and not (int(values.min()) >= 0 and int(values.max()) < limit)


def _filled(packs: Packs) -> npt.NDArray[np.bool_]:
    """bool[P, seq_len]: tokens of documents, as against padding."""
    filled: npt.NDArray[np.bool_] = np.arange(packs.input_ids.shape[1]) < tokens_per_pack(packs)[:, None]
    return filled


def _document_starts(packs: Packs) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The row and the column of every document's first token."""
    rows = np.repeat(np.arange(len(packs)), np.diff(packs.doc_offsets))
    ends = np.cumsum(packs.doc_lengths, dtype=np.int64)
    before = ends - packs.doc_lengths
    columns = before - before[packs.doc_offsets[:-1]][rows]
    return rows, np.minimum(columns, packs.input_ids.shape[1] - 1)


def _document_keys(packs: Packs) -> npt.NDArray[np.uint64]:
    """uint64[D]: a hash of source, position and piece, 8 bytes a document."""
    keys = np.zeros(len(packs.doc_source), np.uint64)
    for column in (packs.doc_source, packs.doc_position, packs.doc_piece):
        keys = mix(keys ^ column.astype(np.uint64))
    return keys


def _count_rows(packs: Packs) -> int:
    """Rows whose first document is here."""
    return int((packs.doc_piece == 0).sum())


def _check_histograms(
    manifest: Manifest, training: list[dict[str, dict[str, int]]], held_out: list[dict[str, dict[str, int]]]
) -> Iterator[str]:
    if _total(training) != manifest.channels.total:
        yield "manifest.json: channels.total is not what the shards hold"
    for source in sorted(set(manifest.channels.sources) | {source for found in training for source in found}):
        found = add_histograms(histograms[source] for histograms in training if source in histograms)
        if found != manifest.channels.sources.get(source):
            yield f"manifest.json: channels.sources[{source}] is not what the shards hold"
    if manifest.holdout and _total(held_out) != manifest.holdout.channels:
        yield "manifest.json: holdout.channels is not what the holdout's shards hold"


def _total(histograms: list[dict[str, dict[str, int]]]) -> dict[str, int]:
    return add_histograms(by_source for found in histograms for by_source in found.values())
