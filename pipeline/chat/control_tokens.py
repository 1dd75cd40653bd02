"""Control tokens: which of the added tokens they are, and where a rendering or a row has them."""

import difflib
import json
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from pipeline.chat.regions import RowSpan
from pipeline.config import ControlTokens
from pipeline.encoders.base import AddedToken, Encoder, TokenFinder, TokenSpan
from schemas.conversation import Document, Message, TextDocument
from schemas.errors import ConfigError
from schemas.rejects import Reason, RejectRow

LITERAL = ControlTokens()
"""The default: typed control tokens stay text, and nobody changes which they are."""

_NO_TOKEN = "\uffff"  # a noncharacter, which stands in no token


def with_chosen_controls(
    encoder: Encoder, ends: Collection[AddedToken], border: Collection[AddedToken], settings: ControlTokens
) -> Encoder:
    """The control tokens are those flagged special, those that end turns, those of headers and borders, as the config
    changes them; white space never is one. Raises ConfigError for names that cannot be meant."""
    found = {*ends, *border, *(token for token in encoder.added_tokens if token.special)}
    chosen = {token.content for token in found if token.content.strip()}
    _check_names(encoder.added_tokens, settings)
    chosen = chosen.union(settings.add).difference(settings.remove)
    changed = encoder.with_controls(chosen)
    fixed = {token.content for token in ends}.union(token.content for token in changed.added_tokens if token.special)
    for name in settings.remove:
        if name in fixed:
            reason = "ends a turn" if name in {token.content for token in ends} else "is no text for sentencepiece"
            raise ConfigError(
                f"control_tokens.remove: {name!r} {reason}, so it stays a control token; remove the entry"
            )
    return changed


def _check_names(added: Sequence[AddedToken], settings: ControlTokens) -> None:
    contents = [token.content for token in added]
    for key in ("add", "remove"):
        for name in getattr(settings, key):
            if name not in contents:
                near = difflib.get_close_matches(name, contents, n=3, cutoff=0.5)
                hint = f"; did you mean {', '.join(map(repr, near))}?" if near else ""
                raise ConfigError(
                    f"control_tokens.{key}: {name!r} is none of the tokenizer's {len(contents)} added tokens{hint}"
                )


def template_tokens(text: str, rows: Sequence[RowSpan], finder: TokenFinder) -> Iterator[TokenSpan]:
    """The tokens that the template itself has written into a rendering: row text neither makes one nor breaks one, but
    its white space counts for `lstrip` and `rstrip`."""
    parts, position = [], 0
    for start, end, _ in rows:
        parts += [text[position:start], _NO_TOKEN * (end - start)]
        position = end
    return finder.find(text, "".join([*parts, text[position:]]))


def check_no_control_token(document: Document, controls: Sequence[str]) -> None:
    """Raises RejectRow where any field of the row holds a control token's text."""
    pattern = re.compile("|".join(map(re.escape, controls)) or r"(?!)")
    for place, text in _texts(document):
        found = pattern.search(text)
        if found:
            raise RejectRow(Reason.CONTROL_TOKEN, f"{place} holds the text of the control token {found[0]!r}")


def _texts(document: Document) -> Iterator[tuple[str, str]]:
    """Every string of a row, with the name of its place."""
    if isinstance(document, TextDocument):
        yield "the text", document.text
        return
    for index, message in enumerate(document.messages):
        for field, text in _message_texts(message):
            yield f"messages[{index}].{field}", text
    for field in ("tools", "documents", "template_kwargs"):
        yield from ((field, text) for text in _json_texts(getattr(document, field)))


def _message_texts(message: Message) -> Iterator[tuple[str, str]]:
    for field in ("content", "reasoning_content", "tool_call_id", "name"):
        yield field, getattr(message, field) or ""
    for number, call in enumerate(message.tool_calls):
        for text in (call.name, call.id or "", *_json_texts(call.arguments)):
            yield f"tool_calls[{number}]", text
    for key, value in message.extra.items():
        yield from ((key, text) for text in _leaves(value))


def _json_texts(text: str | None) -> Iterator[str]:
    """JSON text as it stands, and the strings in it, which it may write with escapes."""
    if text:
        yield text
        try:
            yield from _leaves(json.loads(text))
        except ValueError:
            return


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from (key, *_leaves(item))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
