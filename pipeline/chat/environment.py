"""The sandbox in which chat templates run: Jinja as transformers sets it up, with traced strings.

The set-up (trim_blocks, lstrip_blocks, loop controls, `tojson`, `raise_exception`, `strftime_now`, a `dict` and
a `namespace` without dunder attributes) follows transformers' chat_template_utils, so that a template that runs
there runs here. What differs is below the surface: printing, `~`, `+`, `%`, join, macros and filters keep the
origin of every character (see traced.py), and all work is counted (see limits.py).
"""

import functools
from collections.abc import Callable, Iterable
from datetime import date
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter, safe_range
from jinja2.utils import Namespace, missing

from pipeline.chat import costs, filters, limits
from pipeline.chat.codegen import TracingCodeGenerator
from pipeline.chat.json_text import to_json
from pipeline.chat.traced import (
    GENERATION_END,
    GENERATION_START,
    PRINTED_NONE,
    Run,
    Traced,
    as_row_text,
    concat,
)
from pipeline.chat.traced_values import TracedDict, TracedFloat, TracedInt, TracedList, first_origin, trace


def printed(value: Any) -> str:
    """What `{{ value }}` prints."""
    if isinstance(value, str):
        return value
    if value is None:
        return Traced("None", (Run(4, PRINTED_NONE),))
    if isinstance(value, TracedInt | TracedFloat):
        return value.traced()
    text = str(limits.weigh(value))
    origin = first_origin(value)
    return text if origin is None else as_row_text(text, origin)


class GenerationBlock(jinja2.ext.Extension):
    """`{% generation %}`: the template's own word for what the model writes, kept as two marks in the text."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Callable[[], str]) -> str:
        start, end = Traced("", (Run(0, GENERATION_START),)), Traced("", (Run(0, GENERATION_END),))
        return self.environment.concat((start, caller(), end))


class SafeDict:
    """`dict` without the type's own attributes."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class SafeNamespace(Namespace):
    """A namespace whose attributes cannot begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # `namespace(self=1)` is legal
        self, *rest = args
        values = dict(*rest, **kwargs)
        for name in values:
            _check_attribute(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        Namespace.__setitem__(self, name, value)

    def __repr__(self) -> str:
        return "<Namespace>"


def _check_attribute(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot have the attribute {name!r}")


def _raise_exception(message: Any) -> NoReturn:
    raise jinja2.exceptions.TemplateError(str(limits.weigh(message)))


def _range(*bounds: int) -> range:
    made = safe_range(*bounds)
    limits.spend_elements(len(made))
    return made


_OF_MAPPINGS = frozenset(dir(dict))
_ASKING = ("startswith", "endswith")
_SCOPES = ("_block_vars", "_loop_vars")
"""Jinja hands the variables of the loop or block along with every call."""


class TracingEnvironment(ImmutableSandboxedEnvironment):
    """`uncovered` collects the names of calls whose result was taken as row text as a whole; `asked_for_time`
    becomes true once a template has called `strftime_now`."""

    code_generator_class = TracingCodeGenerator
    concat = staticmethod(concat)
    printed = staticmethod(printed)
    step = staticmethod(limits.step)
    measure = staticmethod(limits.measure)
    search = staticmethod(limits.search)
    weigh = staticmethod(limits.weigh)
    add = staticmethod(costs.add)
    intercepted_binops = frozenset({"%", "*", "**"})

    def __init__(self, clock: date) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            extensions=[GenerationBlock, jinja2.ext.loopcontrols],
            cache_size=0,
        )
        self.uncovered: set[str] = set()
        self.asked_for_time = False
        self._clock = clock
        self.globals.update(
            raise_exception=_raise_exception,
            strftime_now=self._strftime_now,
            dict=SafeDict(),
            namespace=SafeNamespace,
            range=_range,
        )
        self.binop_table |= {"*": costs.multiply, "**": costs.power, "%": self._modulo}
        del self.filters["random"], self.globals["lipsum"]  # the same input gives the same bytes
        self.filters.update(filters.TRACED, tojson=to_json)
        for name, function in self.filters.items():
            self.filters[name] = self._guard(name, function)
        for name in costs.COMPARISONS:
            self.tests[name] = costs.counted_test(self.tests[name])

    def _guard(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The filter, counted. Whatever one that we do not cover makes of row text is row text."""
        covered = name in filters.KEEP_ORIGINS or name in filters.TRACED or name == "tojson"
        first = int(hasattr(function, "jinja_pass_arg"))
        count = costs.filter_cost(name)

        def guarded(*args: Any, **kwargs: Any) -> Any:
            given = (*args[first:], *kwargs.values()) if kwargs else args[first:]
            count(given)
            result = costs.count_lazily(function(*args, **kwargs), given)
            return result if covered else self._adopt(name, result, given)

        return functools.update_wrapper(guarded, function)  # with its marks, such as pass_environment's

    def _adopt(self, name: str, result: Any, given: Iterable[Any]) -> Any:
        if type(result) not in (str, int, float):
            return result
        origin = first_origin(tuple(given))
        if origin is None:
            return result
        if not isinstance(result, str):
            return trace(result, origin)  # a number of the row's is the row's
        self.uncovered.add(name)
        return as_row_text(result, origin)

    def _strftime_now(self, format: str) -> str:
        self.asked_for_time = True
        return self._clock.strftime(format)

    def join_values(self, values: Iterable[Any]) -> Traced:
        return concat(map(printed, values))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        owner = getattr(__obj, "__self__", None)
        if type(owner) is str:
            __obj = getattr(Traced(owner), __obj.__name__)
        name = getattr(__obj, "__name__", "call")
        given = (*args, *(kwargs[key] for key in kwargs if key not in _SCOPES)) if kwargs else args
        if type(__obj) is Macro:
            limits.spend(1)
        else:
            costs.count_call(owner, name, given)
            if type(owner) is Traced and name in _ASKING and len(given) == len(args):
                return __obj(*args)
        result = super().call(__context, __obj, *args, **kwargs)
        return __self._adopt(name, result, (owner, *given))

    def _modulo(self, left: Any, right: Any) -> Any:
        return filters.percent_format(left, right) if isinstance(left, str) else left % right

    def getattr(self, obj: Any, attribute: str) -> Any:
        """As the sandbox does it. Most often it is a key of a mapping, which has no such attribute, or something that
        needs no further look."""
        kind = type(obj)
        if (kind is TracedDict or kind is dict) and attribute not in _OF_MAPPINGS:
            try:
                return obj[attribute]
            except KeyError:
                return self.undefined(obj=obj, name=attribute)
        if attribute in _PLAIN_ATTRIBUTES.get(kind, ()):
            return getattr(obj, attribute)
        if kind is SafeNamespace and not attribute.startswith("_"):
            value = getattr(obj, attribute, missing)
            if type(value) in _PLAIN_KINDS:
                return value
        return super().getattr(obj, attribute)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if _is_ours(obj, attr) or (attr in costs.NOT_AVAILABLE and isinstance(obj, str | int)):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        """What traced strings and numbers have beyond Python's own is not there for a template."""
        return (
            self.undefined(obj=obj, name=attribute)
            if _is_ours(obj, attribute)
            else super().unsafe_undefined(obj, attribute)
        )

    def _load_template(self, *_: Any) -> NoReturn:
        raise jinja2.TemplateRuntimeError("a chat template stands alone: it cannot include, import or extend another")

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if super().wrap_str_format(value) is None:
            return None
        template: str = value.__self__
        formatter = SandboxedFormatter(self)
        if value.__name__ == "format_map":
            return lambda mapping: filters.brace_format(formatter, template, (), mapping)
        return lambda *args, **kwargs: filters.brace_format(formatter, template, args, kwargs)


_OURS: dict[type, frozenset[str]] = {
    made: frozenset([*dir(made), *made.__annotations__]) - frozenset(dir(made.__base__))
    for made in (Traced, TracedInt, TracedFloat, TracedDict, TracedList)
}


_PLAIN_ATTRIBUTES: dict[type, frozenset[str]] = {
    LoopContext: frozenset(("index", "index0", "revindex", "revindex0", "first", "last", "length")),
    Traced: frozenset(name for name in dir(str) if not name.startswith("_"))
    - {"format", "format_map", *costs.NOT_AVAILABLE},
}
"""What is always safe, and is what it is."""
_PLAIN_KINDS = frozenset((bool, int, str, Traced, type(None)))


def _is_ours(obj: Any, attribute: str) -> bool:
    """Whether it is an attribute that a traced value has beyond the plain one's."""
    return isinstance(obj, str | int | float | dict | list) and any(
        attribute in _OURS.get(made, ()) for made in type(obj).__mro__
    )
