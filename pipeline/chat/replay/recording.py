"""Running a template on symbols: the environment routes to them what Jinja would do in C or past their methods."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Self

from jinja2 import nodes, pass_environment
from jinja2.compiler import Frame
from jinja2.environment import Environment
from jinja2.filters import make_attrgetter
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import SandboxedEnvironment
from jinja2.tests import TESTS

from pipeline.chat import filters, json_text
from pipeline.chat.codegen import TracingCodeGenerator
from pipeline.chat.costs import COMPARISONS
from pipeline.chat.environment import SafeDict, SafeNamespace, TracingEnvironment, printed
from pipeline.chat.replay.expressions import ASKING, KEEPING, MIXING, MIXING_FILTERS, SPLITTING, Call, Leaf, kind_of
from pipeline.chat.replay.recorder import NotReplayable, Recorder
from pipeline.chat.replay.symbols import (
    MARK,
    Derived,
    Piece,
    SymbolicText,
    constant,
    join_parts,
    lift,
    separate,
    texts_of,
)
from pipeline.chat.replay.values import (
    SYMBOLIC,
    SymbolicList,
    SymbolicMapping,
    find_symbol,
    make_number,
    make_symbol,
)
from pipeline.chat.template import ChatTemplate, MakeLeaf
from pipeline.chat.traced import Origin, Traced
from schemas.conversation import Conversation

_PICK_OR_CALL_METHODS = """
attr batch capitalize center d default dictsort first groupby items last list lower map max min reject rejectattr
reverse safe select selectattr slice sort sum trim unique upper
"""
_METHODS: dict[type, frozenset[str]] = {
    SymbolicText: frozenset((*KEEPING, *MIXING, *SPLITTING, *ASKING, "join")),
    SymbolicMapping: frozenset(("keys", "items", "values", "get")),
}


class Haystack:
    """What stands right of `in`: a plain string or table would not ask a symbol on its left."""

    def __init__(self, values: str | dict[Any, Any]) -> None:
        self._values = values

    def __contains__(self, item: object) -> bool:
        if not isinstance(item, SymbolicText):
            return item in self._values  # which raises TypeError, as it should
        if isinstance(self._values, dict):
            return any(item == key for key in self._values)
        return bool(item._recorder.decide("contains", lift(self._values), item._expression))


def haystack(value: Any) -> Any:
    plain = isinstance(value, str | dict) and not isinstance(value, SYMBOLIC)
    return Haystack(value) if plain else value


class RecordingCodeGenerator(TracingCodeGenerator):
    def _visit_counted(self, how: str, node: nodes.Expr, frame: Frame) -> None:
        """Constants go through the environment as well: `in` asks what stands on its right."""
        self.write(f"environment.{how}(")
        self.visit(node, frame)
        self.write(")")


def _as_it_is(value: Any) -> Any:
    return value


class RecordingEnvironment(TracingEnvironment):
    """What is not listed raises NotReplayable as soon as a symbol is given to it. Symbols have no size that could be
    counted."""

    code_generator_class = RecordingCodeGenerator
    concat = staticmethod(join_parts)  # type: ignore[assignment]  # Jinja gives it the parts alone
    measure = weigh = staticmethod(_as_it_is)
    search = staticmethod(haystack)
    add = staticmethod(lambda left, right: left + right)

    def __init__(self, clock: Any) -> None:
        super().__init__(clock)
        for name, function in MIXING_FILTERS.items():
            self.filters[name] = _mixing_filter(name, function)
        self.filters.update(
            length=_length, count=_length, join=_join, replace=_replace, string=_string, tojson=_to_json
        )
        self.tests.update({name: TESTS[name] for name in COMPARISONS})
        is_sequence: Any = self.tests["sequence"]
        self.tests["in"] = lambda value, values: value in haystack(values)
        self.tests["sequence"] = lambda value: isinstance(value, SymbolicText) or is_sequence(value)

    def _guard(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return function if name in _PICK_OR_CALL_METHODS.split() else _unless_symbolic(name, function)

    @staticmethod
    def printed(value: Any) -> str:
        if isinstance(value, SymbolicMapping | SymbolicList) and not value._of_text:
            return SymbolicText(value._recorder, (Derived(Call("printed", (value._expression,)), value._origin),))
        return printed(value)

    def join_values(self, values: Iterable[Any]) -> Traced:
        return join_parts(map(self.printed, values))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        given = {key: value for key, value in kwargs.items() if key not in ("_loop_vars", "_block_vars")}
        symbol = find_symbol([*args, *given.values()])
        if isinstance(owner, str) and name == "join":
            return separate(owner, *args)
        if isinstance(owner, str) and symbol is not None:
            owner = constant(symbol._recorder, owner)
        if isinstance(owner, SYMBOLIC):
            if name not in _METHODS.get(type(owner), ()):
                raise NotReplayable(f"the method {name}")
            return getattr(owner, name)(*args, **given)
        if symbol is None:
            return super().call(__context, __obj, *args, **kwargs)
        if not _takes_symbols(__obj, owner):
            raise NotReplayable(f"the function {name}")
        result = SandboxedEnvironment.call(__self, __context, __obj, *args, **kwargs)
        return __self._adopt(name, result, (owner, *args, *given.values()))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if find_symbol([left, right]) is not None:
            raise NotReplayable(f"the operator {operator}")
        return super().call_binop(context, operator, left, right)

    def getitem(self, obj: Any, argument: Any) -> Any:
        symbol = find_symbol(argument)
        if isinstance(obj, str) and symbol is not None:
            obj = constant(symbol._recorder, obj)
        elif type(obj) is dict and isinstance(argument, SymbolicText):
            own = next((key for key in obj if argument == key), None)
            if own is None:
                raise NotReplayable("a table does not have it")
            argument = own
        elif symbol is not None and not isinstance(obj, SYMBOLIC):
            raise NotReplayable("something is looked up by it")
        return super().getitem(obj, argument)


def _takes_symbols(function: Any, owner: Any) -> bool:
    """Whether a function hands its arguments on, or compares them."""
    return (
        isinstance(function, Macro | SafeDict | LoopContext)
        or function is SafeNamespace
        or isinstance(owner, list | tuple | dict)
    )


def _unless_symbolic(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is not listed."""

    def guarded(*args: Any, **kwargs: Any) -> Any:
        if find_symbol([*args, *kwargs.values()]) is not None:
            raise NotReplayable(f"the filter {name}")
        return function(*args, **kwargs)

    return functools.update_wrapper(guarded, function)


def _mixing_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def filtered(text: Any, *args: Any) -> Any:
        if isinstance(text, SymbolicText):
            return text._derive(f"{name} filter", args, mixed=True)
        return _unless_symbolic(name, function)(text, *args)

    return filtered


def _length(value: Any) -> Any:
    if not isinstance(value, SYMBOLIC) or isinstance(value, SymbolicMapping):
        return len(value)
    return make_number(value._recorder, Call("length", (value._expression,)), None)


def _string(value: Any) -> Any:
    if isinstance(value, SymbolicMapping | SymbolicList):
        return RecordingEnvironment.printed(value)
    return filters.TRACED["string"](value)


def _replace(text: Any, old: Any, new: Any, count: int | None = None) -> Any:
    symbol = find_symbol([text, old, new])
    if symbol is None:
        return filters.replace(text, old, new, count)
    return constant(symbol._recorder, text).replace(old, new, -1 if count is None else count)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> Any:
    symbol = find_symbol(value)
    if symbol is None:
        return json_text.to_json(value, ensure_ascii, indent, separators, sort_keys)
    style = json_text.make_style(ensure_ascii, indent, separators, sort_keys)
    origin = _uniform_origin(value)
    piece = Derived(Call("tojson", (lift(value), style)), origin, mixed=origin is None)
    return SymbolicText(symbol._recorder, (piece,))


def _uniform_origin(value: Any) -> Origin | None:
    """The origin of every character of a value's JSON text; None where there may be more than one."""
    if isinstance(value, SymbolicText):
        piece = value._pieces[0]
        return piece.origin if len(value._pieces) == 1 and not (isinstance(piece, Derived) and piece.mixed) else None
    if isinstance(value, SymbolicMapping | SymbolicList) and not value._of_text:
        return value._origin
    return None


@pass_environment
def _join(environment: Environment, values: Iterable[Any], d: str = "", attribute: str | int | None = None) -> Traced:
    if attribute is not None:
        values = map(make_attrgetter(environment, attribute), values)
    return separate(d, [_text(environment, value) for value in values])


def _text(environment: Environment, value: Any) -> str:
    return value if isinstance(value, SymbolicText) else filters.join(environment, [value])


def leaf_maker(recorder: Recorder) -> MakeLeaf:
    """Makes the symbols that stand for the values of a row."""

    def make_leaf(value: Any, origin: Origin) -> Any:
        leaf = Leaf(origin.message, recorder.add_leaf(value, origin.message), origin)
        return make_symbol(recorder, kind_of(value), leaf, origin)

    return make_leaf


class Recording(NamedTuple):
    """The tests that a template made, with their outcomes, and the pieces that it then wrote."""

    answers: dict[Call, Any]
    pieces: tuple[Piece, ...]


class RecordingTemplate(ChatTemplate):
    make_environment = RecordingEnvironment

    @classmethod
    def of(cls, template: ChatTemplate) -> Self:
        """The same template, and what probes have shown of it."""
        made = cls(template.source, template.variables, template.clock)
        made.tool_arguments, made.null_content = template.tool_arguments, template.null_content
        return made

    def record(self, conversation: Conversation, add_generation_prompt: bool) -> Recording:
        """Nothing is counted: the template did the same within its limits just before. Raises NotReplayable."""
        recorder = Recorder()
        try:
            context = self.context(conversation, leaf_maker(recorder), add_generation_prompt=add_generation_prompt)
            written = join_parts(self.run(context))
        except NotReplayable:
            raise
        except Exception as error:  # what a symbol cannot do, and the value can
            raise NotReplayable(f"{type(error).__name__} on a symbol") from error
        pieces = written._pieces if isinstance(written, SymbolicText) else tuple(texts_of(written))
        if any(MARK in piece.text for piece in pieces if not isinstance(piece, Derived)):
            raise NotReplayable("text of the row is used past the listed operations")
        return Recording(recorder.answers, pieces)
