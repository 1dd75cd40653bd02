"""Readers: from a unit's stretches to blocks of rows, each row with its place in the source."""

from pipeline.readers.files import SourceChanged, check_unchanged
from pipeline.readers.read import read_blocks

__all__ = ["SourceChanged", "check_unchanged", "read_blocks"]
