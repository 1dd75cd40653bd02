"""Jinja's filters and Python's string formatting, on traced strings.

Filters in KEEP_ORIGINS work on traced strings as they are: they pick values, or call methods that traced.py
defines. Those in TRACED are written anew. The environment guards all others.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from string import Formatter
from typing import Any

from jinja2 import pass_environment
from jinja2.environment import Environment
from jinja2.filters import make_attrgetter
from markupsafe import escape as escape_markup

from pipeline.chat.costs import count_format, total
from pipeline.chat.limits import weigh
from pipeline.chat.traced import Run, Traced, as_row_text, concat, runs_of
from pipeline.chat.traced_values import TracedFloat, TracedInt, first_origin

_PICK_OR_CALL_METHODS = """
attr batch capitalize center count d default dictsort first groupby items last length list lower map max min reject
rejectattr reverse select selectattr slice sort trim unique upper wordcount
"""
KEEP_ORIGINS = frozenset(_PICK_OR_CALL_METHODS.split())


def _text(value: Any) -> Traced:
    """The value as a traced string."""
    if isinstance(value, Traced):
        return value
    if isinstance(value, TracedInt | TracedFloat):
        return value.traced()
    text, origin = str(weigh(value)), first_origin(value)
    return Traced(text) if origin is None else as_row_text(text, origin)


@pass_environment
def join(environment: Environment, values: Iterable[Any], d: str = "", attribute: str | int | None = None) -> Traced:
    if attribute is not None:
        values = map(make_attrgetter(environment, attribute), values)
    return _text(d).join(_text(value) for value in values)


def replace(text: Any, old: Any, new: Any, count: int | None = None) -> Traced:
    return _text(text).replace(_text(old).plain, _text(new), -1 if count is None else count)


def title(text: Any) -> Traced:
    """Words begin after white space or one of -({[<, as Jinja has it."""
    words = re.compile(r"[-\s({\[<]+|[^-\s({\[<]+").finditer(_text(text).plain)
    cuts = [_text(text)[word.start() : word.end()] for word in words]
    return concat(cut[:1].upper() + cut[1:].lower() for cut in cuts)


def indent(text: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> Traced:
    margin = width if isinstance(width, str) else " " * width
    lines = (_text(text) + "\n").splitlines()
    parts: list[str] = [margin if first else "", lines[0]]
    for line in lines[1:]:
        parts += ["\n", margin if line or blank else "", line]
    return concat(parts)


def escape(text: Any) -> Traced:
    parts, position = [], 0
    for run in runs_of(_text(text)):
        escaped = str(escape_markup(_text(text).plain[position : position + run.length]))
        parts.append(Traced(escaped, (Run(len(escaped), run.origin),)))
        position += run.length
    return concat(parts)


_CONVERSION = re.compile(r"%(?:\((?P<key>[^)]*)\))?(?P<width>[-#0 +]*+\d*+(?:\.\d++)?)(?P<kind>[a-zA-Z%])")


def percent_format(template: str, values: Any) -> str:
    """`template % values`: a conversion keeps its value's origin."""
    given = list(values) if isinstance(values, tuple) else [values]
    parts: list[str] = []
    position = 0
    while (sign := str.find(template, "%", position)) >= 0:
        match = _CONVERSION.match(template, sign)
        if match is None:
            raise ValueError(f"incomplete or unknown conversion at character {sign} of the format")
        parts.append(template[position:sign])
        position = match.end()
        if match["kind"] == "%":
            parts.append("%")
        else:
            value = values[match["key"]] if match["key"] is not None else _next(given)
            specification = f"%{match['width']}{match['kind']}"
            count_format(specification, value)
            parts.append(_formatted(specification % (value,), value))
    if given and not isinstance(values, Mapping):
        raise TypeError("not all arguments converted during string formatting")
    return concat([*parts, template[position:]])


def _next(given: list[Any]) -> Any:
    if not given:
        raise TypeError("not enough arguments for format string")
    return given.pop(0)


def brace_format(formatter: Formatter, template: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """`template.format(...)`: a field keeps its value's origin."""
    parts: list[str] = []
    number = 0
    for literal, name, specification, conversion in formatter.parse(template):
        parts.append(literal)
        if name is None:
            continue
        if name == "" or name[0] in ".[":
            name, number = f"{number}{name}", number + 1
        value, _ = formatter.get_field(name, args, kwargs)
        count_format(specification or "", value)
        text = formatter.format_field(formatter.convert_field(value, conversion), specification or "")
        parts.append(_formatted(text, value))
    return concat(parts)


def _formatted(text: str, value: Any) -> str:
    """Text made of a value: the value's own runs where it came through whole, else its first origin."""
    if isinstance(value, Traced) and text == value:
        return value
    origin = first_origin(value)
    return text if origin is None else as_row_text(text, origin)


def _format(text: Any, *args: Any, **kwargs: Any) -> str:
    return percent_format(_text(text), kwargs or args)


@pass_environment
def add_up(environment: Environment, values: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
    if attribute is not None:
        values = map(make_attrgetter(environment, attribute), values)
    return total(values, start)


TRACED: dict[str, Callable[..., Any]] = {
    "join": join,
    "replace": replace,
    "title": title,
    "indent": indent,
    "escape": escape,
    "e": escape,
    "forceescape": escape,
    "string": _text,
    "safe": _text,  # nothing is escaped in chat templates, so there is nothing to keep safe
    "format": _format,
    "sum": add_up,
}
