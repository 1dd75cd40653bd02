"""Message transforms: from a row to a conversation or a text."""

from pipeline.convert.convert_rows import convert_rows
from pipeline.convert.converter import Converter
from pipeline.convert.custom import module_source
from pipeline.convert.make import make_converter

__all__ = ["Converter", "convert_rows", "make_converter", "module_source"]
