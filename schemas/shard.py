"""The shard: an uncompressed Arrow IPC file, one row a pack. docs/format.md is the prose of this module."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.errors import DatasetError

FORMAT = "1"
PACKS_PER_BATCH = 4096
"""Few, large record batches: opening one costs microseconds, slicing one costs nothing."""


@dataclass(frozen=True, slots=True)
class ShardMeta:
    """The schema metadata in a shard's footer."""

    seq_len: int
    recipe_id: str
    pad_id: int
    tokenizer_sha256: str

    def encode(self) -> dict[str, str]:
        return {
            "packline.format": FORMAT,
            "packline.seq_len": str(self.seq_len),
            "packline.recipe_id": self.recipe_id,
            "packline.pad_id": str(self.pad_id),
            "packline.tokenizer_sha256": self.tokenizer_sha256,
        }

    @classmethod
    def decode(cls, metadata: Mapping[bytes, bytes] | None, where: str) -> "ShardMeta":
        """Raises DatasetError where a key is missing or the format is another one."""
        entries = {key.decode(): value.decode() for key, value in (metadata or {}).items()}
        found = entries.get("packline.format")
        if found != FORMAT:
            raise DatasetError(
                f"{where}: shard format {found!r}, this version of packline reads {FORMAT!r}; "
                "rebuild the data set, or use the version that wrote it"
            )
        try:
            seq_len = int(entries["packline.seq_len"])
            if not 0 < seq_len < 2**31:
                raise ValueError(f"seq_len {seq_len}")
            return cls(
                seq_len=seq_len,
                recipe_id=entries["packline.recipe_id"],
                pad_id=int(entries["packline.pad_id"]),
                tokenizer_sha256=entries["packline.tokenizer_sha256"],
            )
        except (KeyError, ValueError) as error:
            raise DatasetError(f"{where}: broken shard metadata ({error!r}); rebuild this shard") from error


def shard_schema(meta: ShardMeta, *, weights: bool) -> pa.Schema:
    def per_token(kind: pa.DataType) -> pa.DataType:
        return pa.list_(pa.field("item", kind, nullable=False), meta.seq_len)

    def per_document(kind: pa.DataType) -> pa.DataType:
        return pa.list_(pa.field("item", kind, nullable=False))

    columns: dict[str, pa.DataType] = {
        "input_ids": per_token(pa.int32()),
        "channel": per_token(pa.uint8()),
        "doc_lengths": per_document(pa.int32()),
        "doc_source": per_document(pa.int32()),
        "doc_position": per_document(pa.int64()),
        "doc_piece": per_document(pa.int32()),
    }
    if weights:
        columns["weight"] = per_token(pa.float32())
    fields = [pa.field(name, kind, nullable=False) for name, kind in columns.items()]
    return pa.schema(fields, metadata=meta.encode())


@dataclass(frozen=True, slots=True)
class Packs:
    """A stretch of packs as arrays; P packs, D documents. Views into the file where it is mapped."""

    input_ids: npt.NDArray[np.int32]  # [P, seq_len], padded with the pad id
    channel: npt.NDArray[np.uint8]  # [P, seq_len], 0 in the padding
    doc_offsets: npt.NDArray[np.int32]  # [P + 1], into the arrays of documents
    doc_lengths: npt.NDArray[np.int32]  # [D]
    doc_source: npt.NDArray[np.int32]  # [D]
    doc_position: npt.NDArray[np.int64]  # [D]
    doc_piece: npt.NDArray[np.int32]  # [D]
    weight: npt.NDArray[np.float32] | None  # [P, seq_len]

    def __len__(self) -> int:
        return len(self.input_ids)

    def documents(self, pack: int) -> slice:
        """The slice of the document arrays that belongs to a pack."""
        return slice(int(self.doc_offsets[pack]), int(self.doc_offsets[pack + 1]))


def packs_to_batch(packs: Packs, schema: pa.Schema) -> pa.RecordBatch:
    def column(field: pa.Field) -> pa.Array:
        values = getattr(packs, field.name)
        flat = pa.array(values.reshape(-1), type=field.type.value_type)
        if pa.types.is_fixed_size_list(field.type):
            return pa.FixedSizeListArray.from_arrays(flat, type=field.type)
        return pa.ListArray.from_arrays(pa.array(packs.doc_offsets, pa.int32()), flat, type=field.type)

    return pa.record_batch([column(field) for field in schema], schema=schema)


def batch_to_packs(batch: pa.RecordBatch, seq_len: int) -> Packs:
    """Zero copy: the arrays view the batch's buffers and are read-only. Raises ArrowInvalid for offsets that lead out
    of their buffers. (By DLPack, as `to_numpy` imports pandas where that is installed: 0.25 s.)"""

    batch.validate(full=True)

    def tokens(name: str) -> npt.NDArray[Any]:
        return documents(name).reshape(-1, seq_len)

    def documents(name: str) -> npt.NDArray[Any]:
        values: npt.NDArray[Any] = np.from_dlpack(batch.column(name).flatten())
        return values

    offsets = np.from_dlpack(batch.column("doc_lengths").offsets)
    return Packs(
        input_ids=tokens("input_ids"),
        channel=tokens("channel"),
        doc_offsets=offsets - offsets[0],
        doc_lengths=documents("doc_lengths"),
        doc_source=documents("doc_source"),
        doc_position=documents("doc_position"),
        doc_piece=documents("doc_piece"),
        weight=tokens("weight") if "weight" in batch.schema.names else None,
    )


def tokens_per_pack(packs: Packs) -> npt.NDArray[np.int64]:
    """int64[P]: tokens of the documents, padding apart."""
    ends = np.concatenate([[0], np.cumsum(packs.doc_lengths, dtype=np.int64)])
    tokens: npt.NDArray[np.int64] = np.diff(ends[packs.doc_offsets])
    return tokens


def _check_documents(packs: Packs, where: str) -> None:
    """Raises DatasetError unless the documents have borders that can be relied on. No token is read."""
    documents = len(packs.doc_lengths)
    columns = (packs.doc_source, packs.doc_position, packs.doc_piece)
    if any(len(column) != documents for column in columns) or packs.doc_offsets[-1:].tolist() != [documents]:
        problem = "the columns of documents are not of one length"
    elif (np.diff(packs.doc_offsets) < 1).any():
        problem = "a pack has no document"
    elif (packs.doc_lengths < 1).any():
        problem = "a document has no token"
    elif (tokens_per_pack(packs) > packs.input_ids.shape[1]).any():
        problem = "the documents of a pack are longer than seq_len"
    else:
        return
    raise DatasetError(f"{where}: {problem}; rebuild it")


def write_shard(packs: Packs, meta: ShardMeta, sink: Any) -> None:
    """Write `packs` as one Arrow IPC file. The bytes depend on the packs and `meta` alone."""
    schema = shard_schema(meta, weights=packs.weight is not None)
    whole = packs_to_batch(packs, schema)
    options = pa.ipc.IpcWriteOptions(compression=None)
    with pa.ipc.new_file(sink, schema, options=options) as writer:
        for start in range(0, len(whole), PACKS_PER_BATCH):
            writer.write_batch(whole.slice(start, PACKS_PER_BATCH))


@dataclass(frozen=True, slots=True)
class Shard:
    """An open shard: its metadata and its record batches as arrays."""

    meta: ShardMeta
    batches: tuple[Packs, ...]

    def __len__(self) -> int:
        return sum(map(len, self.batches))

    def locate(self, pack: int) -> tuple[Packs, int]:
        """The batch that holds a pack of this shard, and the pack's row in it."""
        batch, row = divmod(pack, PACKS_PER_BATCH)
        return self.batches[batch], row


def read_shard(source: pa.NativeFile | pa.Buffer, where: str) -> Shard:
    """Open a shard. Raises DatasetError for a file that is no whole shard of this format."""
    try:
        reader = pa.ipc.open_file(source)
        meta = ShardMeta.decode(reader.schema.metadata, where)
        expected = shard_schema(meta, weights="weight" in reader.schema.names)
        if not reader.schema.equals(expected):
            raise DatasetError(f"{where}: columns {reader.schema.names} are not those of a shard; rebuild it")
        batches = tuple(
            batch_to_packs(reader.get_batch(index), meta.seq_len) for index in range(reader.num_record_batches)
        )
        for batch in batches:
            _check_documents(batch, where)
        if any(len(batch) != PACKS_PER_BATCH for batch in batches[:-1]):
            raise DatasetError(f"{where}: a batch before the last has not {PACKS_PER_BATCH} packs; rebuild it")
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise DatasetError(f"{where}: not a readable shard, perhaps cut short ({error}); rebuild it") from error
    return Shard(meta, batches)


def map_shard(path: Path) -> Shard:
    """Memory-map a local shard; nothing is read before it is used."""
    try:
        source = pa.memory_map(str(path), "r")
    except OSError as error:
        raise DatasetError(f"{path}: shard is missing or unreadable ({error}); run `packline verify`") from error
    return read_shard(source, str(path))
