"""The sandbox in which chat templates run: Jinja as transformers sets it up, with traced strings.

The set-up (trim_blocks, lstrip_blocks, loop controls, `tojson`, `raise_exception`, `strftime_now`, a `dict` and
a `namespace` without dunder attributes) follows transformers' chat_template_utils, so that a template that runs
there runs here. What differs is below the surface: printing, `~`, `+`, `%`, join, macros and filters keep the
origin of every character (see traced.py).
"""

import functools
from collections.abc import Callable, Iterable
from datetime import date
from typing import Any

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace

from pipeline.chat import filters
from pipeline.chat.json_text import to_json
from pipeline.chat.traced import (
    GENERATION_END,
    GENERATION_START,
    PRINTED_NONE,
    Run,
    Traced,
    TracedFloat,
    TracedInt,
    as_row_text,
    concat,
    first_origin,
    trace,
)


def printed(value: Any) -> str:
    """What `{{ value }}` prints."""
    if isinstance(value, str):
        return value
    if value is None:
        return Traced("None", (Run(4, PRINTED_NONE),))
    if isinstance(value, TracedInt | TracedFloat):
        return value.traced()
    text = str(value)
    origin = first_origin(value)
    return text if origin is None else as_row_text(text, origin)


class TracingCodeGenerator(CodeGenerator):
    """Prints and joins through the environment, where Jinja would call `str` and `''.join`."""

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        self.write("environment.printed(")

    def _output_child_post(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        self.write(")")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        self.write("environment.join_values((")
        for arg in node.nodes:
            self.visit(arg, frame)
            self.write(", ")
        self.write("))")


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


def _check_attribute(name: str) -> None:
    if name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot have the attribute {name!r}")


def _raise_exception(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)


class TracingEnvironment(ImmutableSandboxedEnvironment):
    """`uncovered` collects the names of calls whose result was taken as row text as a whole."""

    code_generator_class = TracingCodeGenerator
    concat = staticmethod(concat)
    printed = staticmethod(printed)
    intercepted_binops = frozenset({"%", "*"})

    def __init__(self, clock: date) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, jinja2.ext.loopcontrols], cache_size=0
        )
        self.uncovered: set[str] = set()
        self.globals.update(
            raise_exception=_raise_exception, strftime_now=clock.strftime, dict=SafeDict(), namespace=SafeNamespace
        )
        del self.filters["random"], self.globals["lipsum"]  # the same input gives the same bytes
        for name, function in self.filters.items():
            if name not in filters.KEEP_ORIGINS:
                self.filters[name] = self._guard(name, function)
        self.filters.update(filters.TRACED, tojson=to_json)

    def _guard(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter that we do not cover: whatever it makes of row text is row text."""

        def guarded(*args: Any, **kwargs: Any) -> Any:
            return self._adopt(name, function(*args, **kwargs), (*args, *kwargs.values()))

        return functools.update_wrapper(guarded, function)  # with its marks, such as pass_environment's

    def _adopt(self, name: str, result: Any, given: Iterable[Any]) -> Any:
        if type(result) not in (str, int, float):
            return result
        origin = first_origin([value for value in given if not isinstance(value, Context)])
        if origin is None:
            return result
        self.uncovered.add(name)
        return as_row_text(result, origin) if isinstance(result, str) else trace(result, origin)

    def join_values(self, values: Iterable[Any]) -> Traced:
        return concat(map(printed, values))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        owner = getattr(__obj, "__self__", None)
        if type(owner) is str and not isinstance(owner, Traced):
            __obj = getattr(Traced(owner), __obj.__name__)
        result = super().call(__context, __obj, *args, **kwargs)
        return __self._adopt(getattr(__obj, "__name__", "call"), result, (owner, *args, *kwargs.values()))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            return filters.percent_format(left, right)
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if super().wrap_str_format(value) is None:
            return None
        template: str = value.__self__
        formatter = SandboxedFormatter(self)
        if value.__name__ == "format_map":
            return lambda mapping: filters.brace_format(formatter, template, (), mapping)
        return lambda *args, **kwargs: filters.brace_format(formatter, template, args, kwargs)
