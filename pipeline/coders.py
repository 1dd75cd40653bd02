"""How blocks travel where a runner does not fuse the steps: as Arrow IPC streams, one after the other.

Inside a fused stage Beam only asks for the size of some elements. `estimate_size` answers without encoding them; the
default would encode whole blocks. No coder here is deterministic, as the order of a dict's keys decides the bytes.

Rows and documents are JSON of the standard library, not of orjson, which turns NaN (Parquet has it) into null and
refuses deep nesting. `encode` raises TypeError for what JSON has not, as bytes in a row. Decoded arrays are read-only.
"""

import json
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.assemble import PackedBlock
from pipeline.block_info import BlockInfo
from pipeline.blocks import BlockKey, DocumentBlock, RowBlock, Sample
from pipeline.encoders.compare import EngineDifference
from pipeline.token_block import TokenBlock
from pipeline.turns import TurnAudit
from schemas.conversation import Conversation, Document, Message, TextDocument, ToolCall
from schemas.manifest import Certificate
from schemas.rejects import Reason, Reject
from schemas.shard import Packs

METADATA = b"packline"
LARGEST = 2**30  # of the estimates: Beam holds them in 32 bits and fails above
REJECTS = pa.schema({"source": pa.int64(), "position": pa.int64(), "reason": pa.string(), "detail": pa.large_string()})


class RowBlockCoder(beam.coders.Coder):  # type: ignore[misc]
    def encode(self, block: RowBlock) -> bytes:
        return _write(_head(block), _table(block, "rows", json.dumps))

    def decode(self, encoded: bytes) -> RowBlock:
        head, table = _read(encoded)
        return RowBlock(**_facts(head), **_columns(table, json.loads))

    def estimate_size(self, block: RowBlock) -> int:
        return min(block.bytes, LARGEST)

    def to_type_hint(self) -> type[RowBlock]:
        return RowBlock


class DocumentBlockCoder(beam.coders.Coder):  # type: ignore[misc]
    def encode(self, block: DocumentBlock) -> bytes:
        documents = _table(block, "documents", lambda each: json.dumps(each, default=_as_dict))
        return _write(_head(block), documents, _samples(block.samples))

    def decode(self, encoded: bytes) -> DocumentBlock:
        head, table, samples = _read(encoded)
        places = _columns(samples, json.loads)
        made = [Sample(*sample) for sample in zip(*places.values(), strict=True)]
        return DocumentBlock(**_facts(head), **_columns(table, _load_document), samples=made)

    def estimate_size(self, block: DocumentBlock) -> int:
        return min(block.bytes, LARGEST)

    def to_type_hint(self) -> type[DocumentBlock]:
        return DocumentBlock


class TokenBlockCoder(beam.coders.Coder):  # type: ignore[misc]
    def encode(self, block: TokenBlock) -> bytes:
        return _write(_head(block), _lists(block))

    def decode(self, encoded: bytes) -> TokenBlock:
        head, lists = _read(encoded)
        return TokenBlock(**_facts(head), **_views(lists))

    def estimate_size(self, block: TokenBlock) -> int:
        return _size(block)

    def to_type_hint(self) -> type[TokenBlock]:
        return TokenBlock


class PackedBlockCoder(beam.coders.Coder):  # type: ignore[misc]
    def encode(self, block: PackedBlock) -> bytes:
        return _write(_head(block), _lists(block.packs), _lists(block.holdout))

    def decode(self, encoded: bytes) -> PackedBlock:
        head, *lists = _read(encoded)
        packs, holdout = (Packs(**_views(part)) if part.num_columns else None for part in lists)
        return PackedBlock(**_facts(head), packs=packs, holdout=holdout)

    def estimate_size(self, block: PackedBlock) -> int:
        return _size(block.packs, block.holdout)

    def to_type_hint(self) -> type[PackedBlock]:
        return PackedBlock


class BlockInfoCoder(beam.coders.Coder):  # type: ignore[misc]
    def encode(self, info: BlockInfo) -> bytes:
        return info.model_dump_json().encode()

    def decode(self, encoded: bytes) -> BlockInfo:
        return BlockInfo.model_validate_json(encoded)

    def estimate_size(self, info: BlockInfo) -> int:
        return 1024  # about, without files

    def to_type_hint(self) -> type[BlockInfo]:
        return BlockInfo


def register_coders() -> None:
    """Let Beam use these coders wherever a step is annotated with the type of a block. May be called again."""
    for coder in (RowBlockCoder, DocumentBlockCoder, TokenBlockCoder, PackedBlockCoder, BlockInfoCoder):
        beam.coders.registry.register_coder(coder().to_type_hint(), coder)


def _write(*batches: pa.RecordBatch) -> bytes:
    """Each batch as a stream of its own: their schemas differ."""
    sink = pa.BufferOutputStream()
    for batch in batches:
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
    return bytes(sink.getvalue())


def _read(encoded: bytes) -> list[pa.RecordBatch]:
    source = pa.BufferReader(encoded)
    batches: list[pa.RecordBatch] = []
    while source.tell() < len(encoded):
        batches += pa.ipc.open_stream(source)
    return batches


def _head(block: RowBlock | DocumentBlock | TokenBlock | PackedBlock) -> pa.RecordBatch:
    """The rejects; in the schema's metadata the key, the numbers, the rows by source and the turns."""
    facts = {name: value for name, value in _as_dict(block).items() if isinstance(value, int | dict)}
    if isinstance(block, TokenBlock | PackedBlock):
        facts["turns"] = block.turns.model_dump()
    if isinstance(block, TokenBlock | PackedBlock) and block.certificate is not None:
        facts["certificate"] = block.certificate.model_dump()
    if isinstance(block, TokenBlock | PackedBlock) and block.difference is not None:
        facts["difference"] = block.difference.model_dump()
    rejects = pa.RecordBatch.from_pylist([_as_dict(reject) for reject in block.rejects], REJECTS)
    return rejects.replace_schema_metadata({METADATA: json.dumps({**facts, "key": _as_dict(block.key)})})


def _facts(head: pa.RecordBatch) -> dict[str, Any]:
    """The fields that `_head` wrote."""
    facts: dict[str, Any] = json.loads(head.schema.metadata[METADATA])
    facts["key"] = BlockKey(**facts["key"])
    if "rows" in facts:
        facts["rows"] = {int(source): count for source, count in facts["rows"].items()}
        facts["turns"] = TurnAudit.model_validate(facts["turns"])
    if "certificate" in facts:
        facts["certificate"] = Certificate(**facts["certificate"])
    if "difference" in facts:
        facts["difference"] = EngineDifference(**facts["difference"])
    facts["rejects"] = [Reject(**{**reject, "reason": Reason(reject["reason"])}) for reject in head.to_pylist()]
    return facts


def _samples(samples: list[Sample]) -> pa.RecordBatch:
    places = {name: pa.array([getattr(each, name) for each in samples], pa.int64()) for name in ("source", "position")}
    requests = pa.array([json.dumps(sample.request).encode() for sample in samples], pa.large_binary())
    return pa.record_batch({**places, "request": requests})


def _table(block: RowBlock | DocumentBlock, name: str, dump: Callable[[Any], str]) -> pa.RecordBatch:
    """The parallel lists of a block: the places, and as JSON the one called `name`."""
    places = {"sources": pa.array(block.sources, pa.int64()), "positions": pa.array(block.positions, pa.int64())}
    values = pa.array([dump(value).encode() for value in getattr(block, name)], pa.large_binary())
    return pa.record_batch({**places, name: values})


def _columns(table: pa.RecordBatch, load: Callable[[bytes], Any]) -> dict[str, Any]:
    """The fields that `_table` wrote."""
    *places, values = table.schema.names
    lists = {name: table.column(name).to_pylist() for name in places}
    return {**lists, values: [load(value.as_py()) for value in table.column(values)]}


def _as_dict(record: Any) -> dict[str, Any]:
    """The fields of a dataclass, not copied. Raises TypeError for anything else."""
    return {field.name: getattr(record, field.name) for field in fields(record)}


def _load_document(encoded: bytes) -> Document:
    value = json.loads(encoded)
    if "text" in value:
        return TextDocument(**value)
    for message in value["messages"]:
        message["tool_calls"] = tuple(ToolCall(**call) for call in message["tool_calls"])
        if message["spans"] is not None:
            message["spans"] = tuple(map(tuple, message["spans"]))
    return Conversation(**{**value, "messages": tuple(Message(**message) for message in value["messages"])})


def _arrays(record: TokenBlock | Packs | None) -> dict[str, npt.NDArray[Any]]:
    return {} if record is None else {name: a for name, a in _as_dict(record).items() if isinstance(a, np.ndarray)}


def _size(*records: TokenBlock | Packs | None) -> int:
    return min(sum(array.nbytes for record in records for array in _arrays(record).values()), LARGEST)


def _lists(record: TokenBlock | Packs | None) -> pa.RecordBatch:
    """One row; each array as a flat list, with its shape in the field's metadata. No columns where there is nothing."""
    columns = {}
    for name, array in _arrays(record).items():
        column = pa.LargeListArray.from_arrays([0, array.size], pa.array(array.reshape(-1)))
        columns[pa.field(name, column.type, metadata={METADATA: json.dumps(array.shape)})] = column
    return pa.record_batch(list(columns.values()), pa.schema(list(columns)))


def _views(lists: pa.RecordBatch) -> dict[str, Any]:
    """The arrays that `_lists` was given; None for weights that were not there."""
    arrays: dict[str, Any] = {"weight": None}
    for field, column in zip(lists.schema, lists.columns, strict=True):
        arrays[field.name] = column.flatten().to_numpy().reshape(json.loads(field.metadata[METADATA]))
    return arrays
