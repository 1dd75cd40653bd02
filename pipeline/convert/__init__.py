"""From rows to conversations and texts: one converter for each entry of the config's `sources`."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from pipeline.blocks import DocumentBlock, RowBlock
from pipeline.config import Alpaca, Columns, Custom, OpenAI, ShareGPT, Transform
from pipeline.convert.columns import AlpacaConverter, ColumnsConverter, TextConverter
from pipeline.convert.custom import CustomConverter, module_source
from pipeline.convert.openai import OpenAIConverter
from pipeline.convert.sharegpt import ShareGPTConverter
from schemas.conversation import Document
from schemas.rejects import Reject, RejectRow

__all__ = ["Converter", "convert_rows", "make_converter", "module_source"]

Converter: TypeAlias = Callable[[dict[str, Any]], Document]
"""From a row to its document. Raises RejectRow. Picklable by cloudpickle."""


def make_converter(settings: Transform, *, loss_weights: bool) -> Converter:
    """Raises ConfigError for settings that no row could be converted with."""
    if isinstance(settings, OpenAI):
        return OpenAIConverter(settings, loss_weights=loss_weights)
    if isinstance(settings, ShareGPT):
        return ShareGPTConverter(settings, loss_weights=loss_weights)
    if isinstance(settings, Columns):
        return ColumnsConverter(settings)
    if isinstance(settings, Alpaca):
        return AlpacaConverter(settings)
    if isinstance(settings, Custom):
        return CustomConverter(settings, loss_weights=loss_weights)
    return TextConverter(settings)


def convert_rows(block: RowBlock, converters: Sequence[Converter], settings: Sequence[int]) -> DocumentBlock:
    """Each row gives a document or a reject. `settings[source]` is the source's entry in the config."""
    made = DocumentBlock(block.key, rejects=list(block.rejects), bytes=block.bytes)
    for source, position, row in zip(block.sources, block.positions, block.rows, strict=True):
        try:
            document = converters[settings[source]](row)
        except RejectRow as reject:
            made.rejects.append(Reject(source, position, reject.reason, reject.detail))
            continue
        made.sources.append(source)
        made.positions.append(position)
        made.documents.append(document)
    return made
