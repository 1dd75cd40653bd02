"""What every encoder gives: flat ids, and the characters that each id covers."""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token outside the vocabulary's own merges, matched in the text as it stands.

    The flags are those of Hugging Face's tokenizers: `special` marks a control token; `lstrip` and `rstrip`
    take in the white space around; `single_word` refuses a match inside a word.
    """

    content: str
    id: int
    special: bool
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


class EncodingFailed(ValueError):
    """The library could not encode a text."""


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
    """Text to ids. No control token comes out but those that the caller names.

    `libraries` names the packages that do the work; `prefix` and `suffix` are the ids around a plain document.
    """

    libraries: tuple[str, ...]
    vocab_size: int
    added_tokens: tuple[AddedToken, ...]

    def encode(self, text: str, controls: Sequence[TokenSpan]) -> Encoded:
        """Encode a rendering: what lies between `controls` is plain text. Raises UnicodeEncodeError."""

    def encode_document(self, text: str) -> npt.NDArray[np.int32]:
        """int32[n]: a plain text, with what the tokenizer puts before it and EOS after it."""

    def with_controls(self, contents: Collection[str]) -> "Encoder":
        """The same encoder, for which these added tokens are control tokens as well."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, control tokens included; broken characters as U+FFFD."""


def flag_controls(tokens: Iterable[AddedToken], contents: Collection[str]) -> tuple[AddedToken, ...]:
    return tuple(replace(token, special=token.special or token.content in contents) for token in tokens)


class TokenFinder:
    """Finds added tokens in text: the leftmost first, the longest of those."""

    def __init__(self, tokens: Iterable[AddedToken]) -> None:
        self._tokens = {token.content: token for token in tokens}
        longest_first = sorted(self._tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def find(self, text: str) -> Iterator[TokenSpan]:
        floor = 0
        for match in self._pattern.finditer(text):
            token = self._tokens[match[0]]
            if token.single_word and _inside_word(text, match.start(), match.end()):
                continue
            span = _with_white_space(text, match.start(), match.end(), token, floor)
            floor = span.end
            yield span


def _inside_word(text: str, start: int, end: int) -> bool:
    return bool(re.match(r"\w", text[start - 1 : start]) or re.match(r"\w", text[end : end + 1]))


def _with_white_space(text: str, start: int, end: int, token: AddedToken, floor: int) -> TokenSpan:
    content = slice(start, end)
    if token.lstrip:
        start = max(floor, len(text[:start].rstrip()))
    if token.rstrip:
        end = len(text) - len(text[end:].lstrip())
    return TokenSpan(start, end, token.id, content)


def encode_as_served(encoder: Encoder, text: str) -> npt.NDArray[np.int32]:
    """int32[n]: as servers encode a rendering: a control token's text is the token, wherever it stands."""
    controls = TokenFinder(token for token in encoder.added_tokens if token.special)
    return encoder.encode(text, list(controls.find(text))).ids


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
