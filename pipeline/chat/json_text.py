"""`tojson` as transformers defines it (json.dumps), keeping the origin of each character.

Braces, commas and the like of a value that holds row text are the row's too: they take the origin of the leaf
before them, or at the very start of the leaf after them.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pipeline.chat.limits import CHARACTERS_A_RUN, counted, spend, spend_text
from pipeline.chat.traced import Origin, Run, Traced, as_row_text, concat, runs_of
from pipeline.chat.traced_values import TracedDict, TracedList, first_origin


class Style(NamedTuple):
    ensure_ascii: bool
    indent: str | None
    comma: str
    colon: str
    sort_keys: bool


_PLAIN_STYLES = {(bool, kind, str, str, bool) for kind in (type(None), str)}


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> Traced:
    """Raises TypeError for what JSON cannot hold."""
    return write_json(value, make_style(ensure_ascii, indent, separators, sort_keys))


def make_style(
    ensure_ascii: bool, indent: int | str | None, separators: tuple[str, str] | None, sort_keys: bool
) -> Style:
    comma, colon = separators or ("," if indent is not None else ", ", ": ")
    margin = " " * indent if isinstance(indent, int) else indent
    return Style(ensure_ascii, margin, comma, colon, sort_keys)


def write_json(value: Any, style: Style) -> Traced:
    if not isinstance(value, TracedDict | TracedList) or value.origin is None or not _is_plain(style):
        return _write(value, style)
    if style not in value.written:
        with counted() as spent:
            text = _write(value, style) if style.indent is not None else _write_at_once(value, style, value.origin)
        value.written[style] = text, spent()
        return text
    text, cost = value.written[style]
    spend(cost)
    return text


def _is_plain(style: Style) -> bool:
    """Whether its settings are the template's own constants, of the usual types."""
    return tuple(map(type, style)) in _PLAIN_STYLES


def _write_at_once(value: Any, style: Style, origin: Origin) -> Traced:
    """A value whose leaves are all of one origin."""
    text = json.dumps(
        value,
        ensure_ascii=style.ensure_ascii,
        separators=(style.comma, style.colon),
        sort_keys=style.sort_keys,
    )
    spend_text(len(text) + CHARACTERS_A_RUN)
    return as_row_text(text, origin)


def _write(value: Any, style: Style) -> Traced:
    written = concat(_pieces(value, style, 0))
    return written if first_origin(value) is None else _adopt_structure(written)


def _adopt_structure(written: Traced) -> Traced:
    origin = first_origin(written)
    runs = []
    for run in written.runs:
        origin = run.origin or origin
        runs.append(Run(run.length, origin))
    return Traced(written, tuple(runs))


def _pieces(value: Any, style: Style, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        yield _quote(value, style)
    elif isinstance(value, Mapping):
        spend(1 + len(value))
        items = sorted(value.items()) if style.sort_keys else value.items()
        entries = [[_key(key, style), style.colon, *_pieces(item, style, depth + 1)] for key, item in items]
        yield from _container("{", entries, "}", style, depth)
    elif isinstance(value, list | tuple):
        spend(1 + len(value))
        yield from _container("[", [list(_pieces(item, style, depth + 1)) for item in value], "]", style, depth)
    else:
        yield _scalar(value)


def _container(opening: str, entries: list[list[str]], closing: str, style: Style, depth: int) -> Iterator[str]:
    yield opening
    before, after = "", ""
    if style.indent is not None:
        spend_text(len(style.indent) * (depth + 1))
        after = "\n" + style.indent * depth
        before = after + style.indent
    for number, entry in enumerate(entries):
        if number:
            yield style.comma
        if before:
            yield before
        yield from entry
    if entries and after:
        yield after
    yield closing


def _key(key: Any, style: Style) -> str:
    if isinstance(key, str):
        return _quote(key, style)
    return concat(('"', _scalar(key), '"'))


def _scalar(value: Any) -> str:
    text = json.dumps(value)
    origin = first_origin(value)
    return text if origin is None else as_row_text(text, origin)


def _quote(text: str, style: Style) -> Traced:
    pieces: list[str] = ['"']
    position = 0
    for run in runs_of(text):
        part = str.__getitem__(text, slice(position, position + run.length))
        escaped = json.dumps(part, ensure_ascii=style.ensure_ascii)[1:-1]
        pieces.append(Traced(escaped, (Run(len(escaped), run.origin),)))
        position += run.length
    return concat([*pieces, '"'])
