"""Rows that are nothing but messages with a text each, or one text: kept as columns, with no object a message."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, dropwhile
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from schemas.conversation import Conversation, Document, Message, MessageRole, TextDocument


class PlainMessage(NamedTuple):
    """A message without its text."""

    role: MessageRole
    train: bool | None = None


Shape: TypeAlias = tuple[PlainMessage, ...]
"""The messages of a conversation; none for a plain text."""

TEXT: Shape = ()
TURN: Shape = (PlainMessage("user"), PlainMessage("assistant"))


class PlainRow(NamedTuple):
    """`shape` says whose texts these are, one each, none of them empty."""

    shape: Shape
    texts: Sequence[str]


def plain_row(shape: Shape, texts: Sequence[Any]) -> PlainRow | None:
    """None where something is no text, or is empty."""
    return PlainRow(shape, texts) if set(map(type, texts)) == {str} and all(texts) else None


@dataclass(frozen=True, slots=True)
class PlainMessages:
    """Reads message lists whose messages have a known role and a text, and beside these nothing but nulls."""

    roles: Mapping[str, str]
    role_key: str
    content_key: str
    _shapes: dict[tuple[str, ...], Shape | None] = field(default_factory=dict, compare=False, repr=False)

    def read(self, messages: Any) -> PlainRow | None:
        try:
            names = tuple([message[self.role_key] for message in messages])
            texts = [message[self.content_key] for message in messages]
            if type(messages) is not list or not (sum(map(len, messages)) == 2 * len(messages) or self._rest(messages)):
                return None
            shape = self.shape(names)
        except (TypeError, KeyError, AttributeError):
            return None
        return plain_row(shape, texts) if shape else None

    def shape(self, names: tuple[str, ...]) -> Shape | None:
        """The shape of messages whose roles have these names; None where one is not known, or there are none."""
        return self._shapes[names] if names in self._shapes else self._add_shape(names)

    def _rest(self, messages: list[Any]) -> bool:
        """Whether all other fields are null."""
        own = (self.role_key, self.content_key)
        return all(value is None or key in own for message in messages for key, value in message.items())

    def _add_shape(self, names: tuple[str, ...]) -> Shape | None:
        known = [self.roles.get(name) for name in names]
        plain = bool(known) and None not in known and "function_call" not in known
        return self._shapes.setdefault(names, tuple(map(PlainMessage, known)) if plain else None)  # type: ignore[arg-type]


def with_plain_system(row: PlainRow, system: str | None) -> PlainRow | None:
    """The row with `system` in the place of the system messages that it begins with."""
    if system is None:
        return row
    turns = tuple(dropwhile(lambda message: message.role in ("system", "developer"), row.shape))
    texts = [system, *row.texts[len(row.shape) - len(turns) :]]
    return plain_row((PlainMessage("system"), *turns), texts)


@dataclass(slots=True)
class PlainRows:
    """R rows. `index` is the place of each among the documents of its block, `shape` that of its shape in `shapes`; row
    r has texts[first[r]:first[r + 1]], in UTF-8."""

    shapes: list[Shape]
    index: npt.NDArray[np.int64]  # [R]
    shape: npt.NDArray[np.int64]  # [R]
    first: npt.NDArray[np.int64]  # [R + 1]
    texts: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.index)

    def document(self, row: int) -> Document:
        texts = [text.decode() for text in self.texts[int(self.first[row]) : int(self.first[row + 1])]]
        shape = self.shapes[int(self.shape[row])]
        if shape == TEXT:
            return TextDocument(texts[0])
        messages = zip(shape, texts, strict=True)
        return Conversation(tuple(Message(plain.role, text, train=plain.train) for plain, text in messages))


@dataclass(slots=True)
class PlainRowsBuilder:
    _shapes: dict[Shape, int] = field(default_factory=dict)
    _index: list[int] = field(default_factory=list)
    _shape: list[int] = field(default_factory=list)
    _texts: list[bytes] = field(default_factory=list)
    _sizes: list[int] = field(default_factory=list)

    def add(self, index: int, shape: Shape, texts: Iterable[bytes]) -> None:
        before = len(self._texts)
        self._index.append(index)
        self._shape.append(self._shapes.setdefault(shape, len(self._shapes)))
        self._texts += texts
        self._sizes.append(len(self._texts) - before)

    def build(self) -> PlainRows:
        return PlainRows(
            list(self._shapes),
            np.array(self._index, np.int64),
            np.array(self._shape, np.int64),
            np.array(list(accumulate(self._sizes, initial=0)), np.int64),
            self._texts,
        )


class MixedDocuments(Sequence[Document]):
    """The documents of a block: those that were listed, and in the place of each None one of the plain rows."""

    def __init__(self, listed: Sequence[Document | None], plain: PlainRows) -> None:
        self.listed = listed
        self.plain = plain

    def __len__(self) -> int:
        return len(self.listed)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        found = self.listed[index]
        if found is not None:
            return found
        return self.plain.document(int(np.searchsorted(self.plain.index, range(len(self))[index])))

    def __iter__(self) -> Iterator[Document]:
        return (self[index] for index in range(len(self)))
