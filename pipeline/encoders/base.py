"""What every encoder gives: flat ids, and the characters that each id covers."""

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.encoders.batch import BatchEncoder

# White space and word characters are those of Rust's regex crate; Python's \s and \w have others besides.
_SPACES = re.compile("[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*")
_JOINERS = "\u200c\u200d"
NAME_BEGIN = "\ufde0"
"""A noncharacter with which names of control tokens begin (see literal.py): texts that have it may be refused."""
_LETTER_SYMBOLS = range(0x24B6, 0x24EA), range(0x1F130, 0x1F14A), range(0x1F150, 0x1F16A), range(0x1F170, 0x1F18A)


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token outside the vocabulary's own merges, matched in the text as it stands.

    The flags are those of Hugging Face's tokenizers: `special` marks a control token; `lstrip` and `rstrip`
    take in the white space around; `single_word` refuses a match inside a word; `normalized` tokens are looked for
    after all others, in the normalized text.
    """

    content: str
    id: int
    special: bool
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False


class EncodingFailed(ValueError):
    """The library could not encode a text."""


@contextmanager
def without_panics(library: str) -> Iterator[None]:
    """Turns a panic of Rust into EncodingFailed: tiktoken's stack overflows on some runs of a million equal characters,
    and what Python then gets is no Exception."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise EncodingFailed(f"{library} gave up on the text: {error}") from error


class TokenSpan(NamedTuple):
    """An added token found in a text: [start, end) in characters, `content` without the white space taken in."""

    start: int
    end: int
    id: int
    content: slice


@dataclass(frozen=True, slots=True)
class Encoded:
    """ids int32[n]; starts, ends int32[n]: the characters of the text that the id covers, wholly or in part."""

    ids: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int32]
    ends: npt.NDArray[np.int32]


class Encoder(Protocol):
    """Text to ids. `libraries` names the packages that do the work; `normal_form` is what becomes of the text between
    added tokens first; the ids of `document_prefix` and `document_suffix` stand around a plain text."""

    libraries: tuple[str, ...]
    vocab_size: int
    added_tokens: tuple[AddedToken, ...]
    normal_form: Literal["NFC"] | None
    document_prefix: Sequence[int]
    document_suffix: Sequence[int]

    def encode(self, text: str, controls: Sequence[TokenSpan] | None) -> Encoded:
        """Encode a rendering. Control tokens come out at `controls` and nowhere else; None: wherever the text has
        them, as a server reads it. Raises UnicodeEncodeError and EncodingFailed."""

    def encode_document(self, text: str, *, parse: bool = False) -> npt.NDArray[np.int32]:
        """int32[n]: a plain text, with what the tokenizer puts before it and EOS after it. `parse`: control tokens in
        the text come out as such."""

    def with_controls(self, contents: Collection[str]) -> "Encoder":
        """The same encoder, for which these added tokens are the control tokens."""

    def batch(self) -> BatchEncoder | None:
        """The same library for the stretches of text between added tokens; None where their ids are not what the whole
        text gives."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, control tokens included; broken characters as U+FFFD."""


def set_controls(tokens: Iterable[AddedToken], contents: Collection[str]) -> tuple[AddedToken, ...]:
    return tuple(replace(token, special=token.content in contents) for token in tokens)


class TokenFinder:
    """Finds added tokens: the leftmost first, the longest of those; `normalized` ones in what the others leave."""

    def __init__(self, tokens: Iterable[AddedToken]) -> None:
        tokens = list(tokens)
        passes = ([token for token in tokens if token.normalized is late] for late in (False, True))
        self._passes = [_Pass(some) for some in passes if some]

    def find(self, text: str, visible: str | None = None) -> Iterator[TokenSpan]:
        """In order. `visible` is as long as `text`: tokens are matched in it, the characters around them are those of
        `text`."""
        visible = text if visible is None else visible
        if len(self._passes) == 1:
            return self._passes[0].find(text, visible, 0)
        found: list[TokenSpan] = []
        for one_pass in self._passes:
            for start, end in gaps(len(text), found):
                found += one_pass.find(text[start:end], visible[start:end], start)
            found.sort(key=lambda span: span.start)
        return iter(found)


class _Pass:
    def __init__(self, tokens: Sequence[AddedToken]) -> None:
        self._tokens = {token.content: token for token in tokens}
        longest_first = sorted(self._tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    def find(self, text: str, visible: str, offset: int) -> Iterator[TokenSpan]:
        floor = 0
        for match in self._pattern.finditer(visible):
            token = self._tokens[match[0]]
            start, end = match.span()
            if token.single_word and (_is_word(text[start - 1 : start]) or _is_word(text[end : end + 1])):
                continue
            content = slice(offset + start, offset + end)
            if token.lstrip:
                start = _before_spaces(text, start, floor)
            if token.rstrip:
                end = _after_spaces(text, end)
            floor = end
            yield TokenSpan(offset + start, offset + end, token.id, content)


def _after_spaces(text: str, position: int) -> int:
    found = _SPACES.match(text, position)
    assert found is not None
    return found.end()


def _before_spaces(text: str, position: int, floor: int) -> int:
    while position > floor and _after_spaces(text[position - 1], 0):
        position -= 1
    return position


def _is_word(character: str) -> bool:
    """Alphabetic, a mark, a decimal digit, a connector or a joiner (Unicode Technical Standard 18, annex C)."""
    if not character or character in _JOINERS:
        return bool(character)
    category = unicodedata.category(character)
    is_symbol = any(ord(character) in symbols for symbols in _LETTER_SYMBOLS)
    return category[0] in "LM" or category in ("Nd", "Nl", "Pc") or is_symbol


def join_encoded(text_length: int, controls: Sequence[TokenSpan], pieces: Sequence[Encoded]) -> Encoded:
    """Put control tokens between the pieces of text around them; there is one piece more than there are controls."""
    assert len(pieces) == len(controls) + 1
    parts: list[tuple[npt.NDArray[np.int32], ...]] = []
    for (start, _), piece, control in zip(gaps(text_length, controls), pieces, [*controls, None], strict=True):
        parts.append((piece.ids, piece.starts + np.int32(start), piece.ends + np.int32(start)))
        if control is not None:
            parts.append(tuple(np.array([value], np.int32) for value in (control.id, control.start, control.end)))
    ids, starts, ends = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Encoded(ids, starts, ends)


def gaps(text_length: int, controls: Sequence[TokenSpan]) -> list[tuple[int, int]]:
    """The stretches before, between and after the controls."""
    starts = [0, *(control.end for control in controls)]
    ends = [*(control.start for control in controls), text_length]
    return list(zip(starts, ends, strict=True))


def tile(encoded: Encoded, length: int) -> Encoded:
    """The spans tile the text: what a tokenizer leaves out, such as a combining mark that it composes, belongs to the
    token before, at the very beginning to the first."""
    starts = encoded.starts.copy()
    starts[:1] = 0
    following = np.append(starts, np.int32(length))[np.searchsorted(starts, starts, side="right")]
    return Encoded(encoded.ids, starts, np.maximum(encoded.ends, following))
