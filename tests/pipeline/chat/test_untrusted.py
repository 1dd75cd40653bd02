"""A template of somebody else's can reach nothing but the row, and cannot hang a build or fill its memory."""

import threading
import time
from datetime import date
from typing import Any

import jinja2
import pytest
from families import FAMILIES, template_source

from pipeline.chat import limits, template
from pipeline.chat.probe import try_out
from pipeline.chat.template import ChatTemplate
from pipeline.chat.traced import Field, Origin, Traced
from pipeline.chat.traced_values import trace
from schemas.conversation import Conversation, Message, ToolCall
from schemas.errors import ConfigError
from schemas.rejects import Reason, RejectRow

RAW = [{"role": "user", "content": "Hi", "n": 7, "x": 1.5}, {"role": "assistant", "content": "Yes"}]
MESSAGES = (
    Message(role="user", content="Hi", extra={"n": 7, "x": 1.5}),
    Message(role="assistant", content="Yes"),
)
REFUSED = "refused"


def make(source: str) -> ChatTemplate:
    return ChatTemplate(source, {}, date(2024, 7, 26))


def ours(source: str) -> str:
    try:
        return make(source).render(Conversation(MESSAGES)).plain
    except (RejectRow, ConfigError):
        return REFUSED


def served(source: str) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        return str(render_jinja_template([RAW], chat_template=source)[0][0])
    except Exception:
        return REFUSED


def unguarded(source: str) -> str:
    """Jinja without its sandbox: what there is to be reached."""
    environment = jinja2.Environment()
    environment.globals.update(raise_exception=len, strftime_now=len)
    try:
        return environment.from_string(source).render(messages=RAW, documents=None)
    except Exception:
        return REFUSED


def detail(source: str, messages: tuple[Message, ...] = MESSAGES) -> str:
    with pytest.raises(RejectRow) as caught:
        make(source).render(Conversation(messages))
    assert caught.value.reason == Reason.TEMPLATE_ERROR
    return caught.value.detail


ROUTES = {
    "dot": "[{{ OBJECT.NAME }}]",
    "item": "[{{ OBJECT['NAME'] }}]",
    "attr": "[{{ OBJECT | attr('NAME') }}]",
    "map attribute": "[{{ [OBJECT] | map(attribute='NAME') | first }}]",
    "map attr": "[{{ [OBJECT] | map('attr', 'NAME') | first }}]",
    "format": "[{{ '{0.NAME}'.format(OBJECT) }}]",
    "format by key": "[{{ '{o.NAME}'.format(o=OBJECT) }}]",
    "format_map": "[{{ '{o.NAME}'.format_map({'o': OBJECT}) }}]",
    "stored format": "{% set f = '{0.NAME}'.format %}[{{ f(OBJECT) }}]",
    "stored format_map": "{% set f = '{o.NAME}'.format_map %}[{{ f({'o': OBJECT}) }}]",
    "format through attr": "[{{ ('{0.NAME}' | attr('format'))(OBJECT) }}]",
    "format_map through attr": "[{{ ('{o.NAME}' | attr('format_map'))({'o': OBJECT}) }}]",
    "format through map": "[{{ (['{0.NAME}'] | map('attr', 'format') | first)(OBJECT) }}]",
    "format through map attribute": "[{{ (['{0.NAME}'] | map(attribute='format') | first)(OBJECT) }}]",
    "set block": "{% set s %}{0.NAME}{% endset %}[{{ s.format(OBJECT) }}]",
    "row text": "[{{ (messages[0].content ~ '{0.NAME}').format(OBJECT)[2:] }}]",
    "macro": "{% macro m() %}{0.NAME}{% endmacro %}[{{ m().format(OBJECT) }}]",
    "call": "{% macro m() %}{{ caller().format(OBJECT) }}{% endmacro %}[{% call m() %}{0.NAME}{% endcall %}]",
    "sort": "[{{ [OBJECT] | groupby('NAME') | map('first') | first }}]",
    "percent": "[{{ '%s' % OBJECT.NAME }}]",
    "format filter": "[{{ '%(a)s' | format(a=OBJECT.NAME) }}]",
}
"""How a template gets at an attribute. CVE-2016-10745, CVE-2019-10906: format, format_map; CVE-2024-56326: stored
format; CVE-2025-27516: format through attr."""
PRIVATE = [
    ("''", "__class__"),
    ("messages[0].content", "__class__"),
    ("messages[0].n", "__class__"),
    ("messages", "__class__"),
    ("messages[0]", "__class__"),
    ("cycler", "__init__"),
    ("joiner", "__init__"),
    ("namespace", "__init__"),
    ("namespace", "mro"),
    ("range", "__class__"),
    ("raise_exception", "__class__"),
    ("strftime_now", "__self__"),
    ("self", "_TemplateReference__context"),
    ("messages[0].content.strip", "__self__"),
    ("'{}'.format", "__class__"),
]


@pytest.mark.parametrize("route", ROUTES)
def test_private_attributes_are_out_of_reach(route: str) -> None:
    reachable = 0
    for owner, name in PRIVATE:
        source = ROUTES[route].replace("OBJECT", owner).replace("NAME", name)
        assert served(source) in (REFUSED, "[]"), source
        assert ours(source) in (REFUSED, "[]"), source
        reachable += unguarded(source) not in (REFUSED, "[]")
    assert reachable > len(PRIVATE) // 2


CLASSICS = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ joiner.__init__.__globals__['__builtins__'] }}",
    "{{ lipsum.__globals__.os }}",
    "{{ self._TemplateReference__context.environment }}",
    "{{ request.application.__globals__ }}",
    "{% set n = namespace(__class__=1) %}{{ n }}",
    "{% set n = namespace() %}{% set n.__class__ = 1 %}{{ n }}",
    "{{ dict.mro() }}",
    "{{ dict.__init__.__globals__ }}",
    "{{ (messages | map('length')).gi_frame.f_globals }}",
    "{{ (messages | select).gi_code.co_consts }}",
    "{% for m in messages recursive %}{{ loop._iterator }}{{ loop.__class__ }}{% endfor %}",
    "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
    "{{ messages | map('attr', '__class__') | list | first }}",
    "{{ none.__class__ }}",
]


@pytest.mark.parametrize("source", CLASSICS)
def test_classic_escapes(source: str) -> None:
    assert served(source) in (REFUSED, "")
    assert ours(source) in (REFUSED, "")


OTHERS = [
    "{% include 'x' %}",
    "{% include 'x' ignore missing %}",
    "{% import 'x' as x %}",
    "{% from 'x' import y %}",
    "{% extends 'x' %}",
]


@pytest.mark.parametrize("source", OTHERS)
def test_a_template_stands_alone(source: str) -> None:
    assert served(source) == REFUSED
    assert detail("\n" + source).startswith("line 2: TemplateRuntimeError: a chat template stands alone")


MUTATIONS = [
    "messages.append(1)",
    "messages.pop()",
    "messages.clear()",
    "messages.insert(0, 1)",
    "messages.extend([1])",
    "messages.remove(messages[0])",
    "messages.reverse()",
    "messages.sort()",
    "messages[0].update(a=1)",
    "messages[0].pop('role')",
    "messages[0].popitem()",
    "messages[0].clear()",
    "messages[0].setdefault('a', 1)",
    "(messages | attr('append'))(1)",
    "(messages[0] | attr('update'))(a=1)",
    "([messages] | map(attribute='append') | first)(1)",
]


@pytest.mark.parametrize("expression", MUTATIONS)
def test_the_row_cannot_be_changed(expression: str) -> None:
    source = "{{ EXPRESSION }}".replace("EXPRESSION", expression)
    assert served(source) == REFUSED
    assert ours(source) == REFUSED


TRACED_OBJECTS = {"messages[0].content": "Hi", "messages[0].n": 7, "messages[0].x": 1.5}


@pytest.mark.parametrize("owner", TRACED_OBJECTS)
def test_what_traced_values_add_is_undefined(owner: str) -> None:
    plain = TRACED_OBJECTS[owner]
    names = sorted(set(dir(trace(plain, Origin(0, Field.BODY)))) - set(dir(plain)))
    assert {"traced", "origin"} <= set(names)
    compared = 0
    for name in names:
        for route in (*ROUTES.values(), "{{ OBJECT.NAME is defined }}{{ OBJECT.NAME | default('none') }}"):
            source = route.replace("OBJECT", owner).replace("NAME", name)
            expected = served(source)
            assert ours(source) == expected, source
            compared += expected != REFUSED
    assert compared > 5 * len(names)


def test_methods_that_lead_out_of_text_are_not_there() -> None:
    for call in ("content.encode()", "content.maketrans('a', 'b')", "content.translate({})", "n.to_bytes(9, 'big')"):
        assert "is unsafe" in detail("{{ messages[0].CALL }}".replace("CALL", call))


NESTED = "{% set n = namespace(l=[1]) %}{% for i in range(60) %}{% set n.l = [n.l, n.l] %}{% endfor %}"
TWICE = "{% set n = namespace(t=START) %}{% for i in range(100) %}{% set n.t = AGAIN %}{% endfor %}"
TOO_MUCH = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "loop filter": "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
    "loop else": "{% for a in range(99999) %}{% for b in [] %}{% else %}{{ range(99999) | list | length }}{% endfor %}"
    "{% endfor %}",
    "recursive loop": "{% for a in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "macro": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "wide macros": "{% macro m(d) %}{% if d %}{{ m(d - 1) }}{{ m(d - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "caller": "{% macro m(d) %}{% set c = caller %}{% if d %}{% call m(d - 1) %}{{ c() }}{{ c() }}{% endcall %}"
    "{% else %}{{ c() }}{% endif %}{% endmacro %}{% call m(25) %}x{% endcall %}",
    "block": "{% block b %}{{ self.b() }}{% endblock %}",
    "plus": TWICE.replace("START", "'ab'").replace("AGAIN", "n.t + n.t"),
    "plus of row text": TWICE.replace("START", "messages[0].content").replace("AGAIN", "n.t + n.t"),
    "tilde": TWICE.replace("START", "'ab'").replace("AGAIN", "n.t ~ n.t"),
    "lists": TWICE.replace("START", "[1]").replace("AGAIN", "n.t + n.t"),
    "numbers": TWICE.replace("START", "3").replace("AGAIN", "n.t * n.t"),
    "set block": "{% set n = namespace(t='ab') %}{% for i in range(100) %}{% set x %}{{ n.t }}{{ n.t }}{% endset %}"
    "{% set n.t = x %}{% endfor %}",
    "join": TWICE.replace("START", "'ab'").replace("AGAIN", "[n.t, n.t] | join"),
    "join method": TWICE.replace("START", "'ab'").replace("AGAIN", "n.t.join([n.t, n.t])"),
    "replace": TWICE.replace("START", "'ab'").replace("AGAIN", "n.t | replace('a', n.t)"),
    "replace method": TWICE.replace("START", "'ab'").replace("AGAIN", "n.t.replace('a', n.t)"),
    "empty runs": TWICE.replace("START", "messages[2].content ~ messages[3].content").replace("AGAIN", "n.t ~ n.t"),
    "times": "{{ 'a' * 10 ** 9 }}",
    "times row text": "{{ 10 ** 9 * messages[0].content }}",
    "list times": "{{ [0] * 10 ** 9 }}",
    "tuple times": "{{ (0, 1) * 10 ** 9 }}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "power of the row": "{{ messages[0].content | length ** 999999999 }}",
    "range": "{{ range(10 ** 9) | list }}",
    "center": "{{ 'a' | center(10 ** 9) }}",
    "center method": "{{ 'a'.center(10 ** 9) }}",
    "ljust": "{{ 'a'.ljust(10 ** 9) }}",
    "rjust": "{{ messages[0].content.rjust(10 ** 9) }}",
    "zfill": "{{ 'a'.zfill(10 ** 9) }}",
    "expandtabs": "{{ '\\t\\t'.expandtabs(10 ** 9) }}",
    "indent": "{{ 'a\\nb' | indent(10 ** 9) }}",
    "tojson": "{{ messages | tojson(indent=10 ** 9) }}",
    "percent": "{{ '%1000000000d' % 1 }}",
    "precision": "{{ '%.1000000000f' % 1 }}",
    "format filter": "{{ '%1000000000d' | format(1) }}",
    "format": "{{ '{:1000000000}'.format(1) }}",
    "format_map": "{{ '{a:1000000000}'.format_map({'a': 1}) }}",
    "round": "{{ 1 | round(10 ** 9, 'floor') }}",
    "round down": "{{ 1 | round(-(10 ** 9)) }}",
    "int": "{{ ('f' * 100000) | int(base=16) }}",
    "batch": "{{ [1] | batch(10 ** 9, 0) | list | length }}",
    "slice": "{{ [1] | slice(10 ** 9) | list | length }}",
    "sum": "{{ ([range(50000) | list] * 50000) | sum(start=[]) | length }}",
    "nested list": NESTED + "{{ n.l }}",
    "nested list as JSON": NESTED + "{{ n.l | tojson }}",
    "nested list as text": NESTED + "{{ n.l | string | length }}",
    "nested list formatted": NESTED + "{{ '{}'.format(n.l) }}{{ '%s' % n.l }}",
    "nested list in a format": NESTED + "{{ '%s' % [n.l] }}",
    "nested list raised": NESTED + "{{ raise_exception(n.l) }}",
    "nested lists compared": NESTED + NESTED.replace("n.l", "k.l").replace("set n", "set k", 1) + "{{ n.l == k.l }}",
    "nested list sorted": NESTED + "{{ [n.l, n.l] | sort | length }}",
    "nested list tested": NESTED + "{{ [n.l] | select('eq', [n.l]) | list | length }}",
    "nested list in a list": NESTED + "{{ [1] in [n.l] }}",
    "nested list counted": NESTED + "{{ [n.l].count([n.l]) }}",
    "nested tuple as key": NESTED.replace("[n.l, n.l]", "(n.l, n.l)").replace("[1]", "(1,)") + "{{ {n.l: 1} }}",
    "nested tuple looked up": NESTED.replace("[n.l, n.l]", "(n.l, n.l)").replace("[1]", "(1,)") + "{{ {}[n.l] }}",
    "nested lists in a loop": NESTED
    + "{% for i in [0, 1] %}"
    + NESTED.replace("n.l", "k.l").replace("set n", "set k", 1)
    + "{{ loop.changed(k.l) }}{% endfor %}",
    "deep list": "{% set n = namespace(l=[]) %}{% for i in range(999) %}{% set n.l = [n.l] %}{% endfor %}{{ n.l }}",
    "lazy filters": "{% set n = namespace(g=range(9999)) %}{% for i in range(900) %}{% set n.g = n.g | map('string') %}"
    "{% endfor %}{{ n.g | list | length }}",
    "lazy work": "{% set r = range(9999) | list %}{% for i in range(9999) %}{{ r | map('string') | list }}{% endfor %}",
    "search from the right": "{{ ('a' * 1000000).rfind('b' + 'a' * 500000) }}",
    "strip": "{{ ('a' * 1000000).strip('b' * 500000 + 'a') }}",
    "trim": "{{ ('a' * 1000000) | trim('b' * 500000 + 'a') }}",
    "wordwrap": "{{ ('a' * 1000000) | wordwrap(1) }}",
    "striptags": "{{ ('<!--x-->' * 200000) | striptags }}",
    "pprint": "{{ ('a b' * 100000) | pprint }}",
    "membership": "{% set r = range(99999) | list %}{% for i in range(9999) %}{{ -1 in r }}{% endfor %}",
    "slices": "{% set r = range(99999) | list %}{% for i in range(99999) %}{% set x = r[1:] %}{% endfor %}",
    "characters": "{% for i in range(999) %}{{ ('ab' * 100000) | list | length }}{% endfor %}",
    "output": "{% set x = 'a' * 1000000 %}{% for i in range(9999) %}{{ x }}{% endfor %}",
}
EMPTY_FIELDS = (*MESSAGES, Message(role="user", content=""), Message(role="assistant", content=""))


@pytest.mark.parametrize("name", TOO_MUCH)
def test_a_template_that_does_too_much_is_stopped(name: str) -> None:
    began = time.process_time()
    said = detail("\n\n" + TOO_MUCH[name], EMPTY_FIELDS)
    assert said.startswith("line 3: ")
    assert "LimitExceeded" in said or "RecursionError" in said or "Range too big" in said, said
    assert time.process_time() - began < 20


@pytest.mark.parametrize(
    "source", ["{{ 'x' | center(10 ** 9) }}", "{% if 9 ** (9 ** 9) %}{% endif %}", "{{ '%99999999999d' % 1 }}"]
)
def test_nothing_is_computed_while_a_template_compiles(source: str) -> None:
    make("{% if false %}" + source + "{% endif %}").render(Conversation(MESSAGES))


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("\n{% autoescape true %}{% endautoescape %}", "line 2"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "RecursionError"),
        ("{% if true %}" * 150 + "{% endif %}" * 150, "indentation"),
        ("{{ " + "9" * 9999 + " }}", "ValueError"),
    ],
)
def test_a_template_that_cannot_be_compiled_is_a_config_error(source: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        make(source)


def test_one_long_format_string_takes_no_longer_for_every_sign() -> None:
    for unit in ("%(", "%%", "%0"):
        began = time.process_time()
        ours("{{ ('UNIT' * 200000) % messages[0].content }}".replace("UNIT", unit))
        assert time.process_time() - began < 5


def test_cuts_of_many_runs_take_no_longer_for_each_other() -> None:
    source = (
        "{% set t %}{% for i in range(20000) %}{{ messages[0].content }},{% endfor %}{% endset %}"
        "{{ t.split(',') | length }}{{ t.replace(',', '').__len__ }}{{ (t | reverse)[:3] }}"
    )
    began = time.process_time()
    assert make(source).render(Conversation(MESSAGES)) == "20001,iH"
    assert time.process_time() - began < 10


def test_an_error_names_the_innermost_line_of_the_template() -> None:
    assert detail("a\nb\n{{ raise_exception('no ' ~ messages[0].content) }}") == "line 3: no Hi"
    assert detail("\n{% macro m(a) %}\n\n{{ a.b.c }}\n{% endmacro %}\n{{ m(1) }}").startswith(
        "line 4: UndefinedError: "
    )
    assert detail("{% for m in messages %}\n{{ 1 / 0 }}{% endfor %}") == "line 2: ZeroDivisionError: division by zero"


def test_a_long_text_that_is_no_number_is_none() -> None:
    """Mistral's templates look whether a tool's result is a number, however long it is."""
    result = Message(role="tool", content="12:30, as always. " * 1000)
    assert make("{{ messages[0].content | int(7) }}").render(Conversation((result,))) == "7"


def test_every_rendering_has_its_own_budget() -> None:
    made = make("{% for i in range(70000) %}{% endfor %}done")
    for _ in range(3):
        assert made.render(Conversation(MESSAGES)) == "done"
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(made.render(Conversation(MESSAGES)).plain)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["done"] * 3
    assert made.render(Conversation(MESSAGES)) + Traced("x") * 10**6  # nothing is counted outside


def agent(turns: int, words: int) -> list[Message]:
    call = ToolCall("function", '{"key": "value"}', "abcdefghi")
    turn = [
        Message(role="user", content="Do it. " * words),
        Message(role="assistant", tool_calls=(call,)),
        Message(role="tool", content="Result " * words, tool_call_id="abcdefghi", name="function"),
        Message(role="assistant", content="Done. " * words),
    ]
    return turn * turns


@pytest.mark.parametrize(("turns", "words"), [(1, 1), (50, 20), (1, 9000)])
def test_real_templates_use_a_small_part_of_what_they_may(
    turns: int, words: int, monkeypatch: pytest.MonkeyPatch, trl_templates: object
) -> None:
    budgets: list[tuple[limits.Budget, int]] = []

    def budget(characters: int, messages: int) -> limits.Budget:
        made = limits.Budget(characters, messages)
        budgets.append((made, made.left))
        return made

    monkeypatch.setattr(template, "Budget", budget)
    used = []
    for name in FAMILIES:
        made = ChatTemplate(template_source(name), FAMILIES[name].special_tokens, date(2024, 7, 26))
        try:
            text = made.render(Conversation(tuple(agent(turns, words))))
        except RejectRow:
            continue
        left, allowed = budgets[-1]
        used.append(max(1 - left.left / allowed, len(text) / left.output))
    assert len(used) > 20
    assert min(used) > 0
    assert max(used) < 0.05


def test_a_template_that_renders_nothing_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="line 2: only for rows of mine"):
        try_out(make("\n{{ raise_exception('only for rows of mine') }}"))


@pytest.mark.parametrize("needed", ["tools", "messages[0].role == 'system'", "messages[1].tool_calls", "not tools"])
def test_a_template_that_refuses_some_conversations_goes_on(needed: str) -> None:
    try_out(make("{% if not (NEEDED) %}{{ raise_exception('no') }}{% endif %}".replace("NEEDED", needed)))


def test_a_namespace_is_not_printed_with_what_it_holds() -> None:
    nested = "{% set n = namespace(l=1) %}{% for i in range(60) %}{% set n.l = namespace(a=n.l, b=n.l) %}{% endfor %}"
    assert make(nested + "{{ n }}").render(Conversation(MESSAGES)) == "<Namespace>"


def test_keys_of_a_message_come_before_what_dicts_have() -> None:
    """A message may have fields that are named like our own attributes."""
    extra: dict[str, Any] = {"runs": "a", "plain": "b", "origin": "c", "traced": "d"}
    message = Message(role="user", content="Hi", extra=extra)
    made = make("{% set m = messages[0] %}{{ m.runs }}{{ m.plain }}{{ m['origin'] }}{{ m['traced'] }}")
    assert made.render(Conversation((message,))) == "abcd"
