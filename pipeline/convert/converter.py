"""What a message transform is: a function from a row to a document."""

from collections.abc import Callable
from typing import Any, TypeAlias

from schemas.conversation import Document

Row: TypeAlias = dict[str, Any]

Converter: TypeAlias = Callable[[Row], Document]
"""Raises RejectRow for a row that gives no document. Picklable."""
