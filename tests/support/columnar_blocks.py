"""Blocks of rows for the columnar path, and its result against the reference's."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.blocks import BlockKey, DocumentBlock, RowBlock
from pipeline.chat.formatter import ChatFormatter
from pipeline.columnar.choose import NO_SHEET, SheetChooser
from pipeline.config import BuildConfig
from pipeline.convert import convert_rows, make_converter
from pipeline.convert.plain import MixedDocuments
from pipeline.token_block import TokenBlock
from pipeline.tokenize import DocumentTokenizer

QWEN = ("package://dashscope/resources/qwen.tiktoken", "qwen2.5")
KEY = BlockKey(0, 0, last=True)


def make_tokenizers(formatter: ChatFormatter, **settings: Any) -> tuple[DocumentTokenizer, DocumentTokenizer]:
    """One that writes from sheets, and the reference alone."""
    values = {
        "output": "out",
        "seq_len": 4096,
        "sources": [{"path": "a", "transform": {"type": "openai"}}],
        "tokenizer": {"path": "t"},
        **settings,
    }
    config = BuildConfig.model_validate(values)
    batch = formatter.encoder.batch()
    assert batch is not None
    encoder = formatter.encoder
    return DocumentTokenizer(config, encoder, formatter, batch), DocumentTokenizer(config, encoder, formatter)


def convert(rows: Sequence[dict[str, Any]], settings: dict[str, Any] | None = None) -> DocumentBlock:
    config = BuildConfig.model_validate(
        {
            "output": "out",
            "seq_len": 8,
            "sources": [{"path": "a", "transform": settings or {"type": "openai"}}],
            "tokenizer": {"path": "t"},
        }
    )
    converter = make_converter(config.sources[0].transform, loss_weights=False)
    positions = [7 * number for number in range(len(rows))]
    return convert_rows(RowBlock(KEY, [0] * len(rows), positions, list(rows)), [converter], [0])


def assert_same(found: TokenBlock, expected: TokenBlock) -> None:
    assert len(found) == len(expected)
    for document in range(len(found)):
        assert np.array_equal(found.input_ids[found.span(document)], expected.input_ids[expected.span(document)]), (
            document
        )
        assert np.array_equal(found.channels_of(document), expected.channels_of(document)), document
    for name in ("sources", "positions", "pieces", "lengths"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    for name in ("rows", "bytes", "truncated", "straddling", "turns", "rejects"):
        assert getattr(found, name) == getattr(expected, name), name


def with_sheets(formatter: ChatFormatter, block: DocumentBlock) -> int:
    """How many rows get a sheet from their shape."""
    assert isinstance(block.documents, MixedDocuments)
    _, chosen = SheetChooser(formatter).choose(block.documents.plain)
    return int((chosen != NO_SHEET).sum())


def plain_rows(count: int, turns: int, words: int) -> list[dict[str, Any]]:
    messages = [{"role": role, "content": "word " * words} for _ in range(turns) for role in ("user", "assistant")]
    return [
        {"messages": [{**message, "content": message["content"] + str(n)} for message in messages]}
        for n in range(count)
    ]
