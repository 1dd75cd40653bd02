"""Templates render the same text as in transformers, and the origins of their characters are right."""

from datetime import date

import pytest

from pipeline.chat.template import ChatTemplate
from pipeline.chat.traced import Field, Origin, Run
from schemas.conversation import Conversation, Message
from schemas.errors import ConfigError
from schemas.rejects import Reason, RejectRow

CONTENT = "  Hello, w\u00f6rld <b>\nline two  "
MESSAGES = (Message(role="user", content=CONTENT, name="Ann"), Message(role="assistant", content="7"))

BODIES = [
    "{{ messages[0].content }}",
    "{{ 'a' ~ messages[0].content ~ 1 }}",
    "{{ 'a' + messages[0].content + 'b' }}",
    "{{ messages[0].content | trim | upper }}",
    "{{ messages[0].content | replace('l', '<l>') | title }}",
    "{{ messages[0].content | indent(2) }}|{{ messages[0].content | indent(2, true, true) }}",
    "{{ messages | map(attribute='content') | join('|') }}",
    "{{ 'x'.join([messages[0].content, messages[1].content]) }}",
    "{{ '%s-%5d-%%' | format(messages[0].content, 3) }}",
    "{{ '%(a)s' % {'a': messages[0].content} }}",
    "{{ '{} {x!r:>5} {{}}'.format(messages[0].content, x=1) }}",
    "{{ messages[0].content | tojson }}{{ messages | tojson(indent=2) }}",
    "{{ messages[0].content.split('\\n')[-1].strip() }}",
    "{{ messages[0].content[::-1] | list | first }}",
    "{% set x %}<{{ messages[0].content }}>{% endset %}{{ x | trim }}",
    "{% macro m(a) %}[{{ a }}]{% endmacro %}{{ m(messages[0].content) }}",
    "{% macro m() %}({{ caller() }}){% endmacro %}{% call m() %}{{ messages[0].content }}{% endcall %}",
    "{% filter upper %}a{{ messages[0].content }}{% endfilter %}",
    "{% for m in messages %}{{ loop.index }}{{ m.content }}{% if loop.last %}{% break %}{% endif %}{% endfor %}",
    "{% set ns = namespace(t='') %}{% for m in messages %}{% set ns.t = ns.t + m.content %}{% endfor %}{{ ns.t }}",
    "{{ [messages[0].content] | string }}",
    "{{ messages[0].content | e }}{{ messages[0].content | safe }}",
    "{{ messages[1].content | int + 1 }}",
    "{{ messages[0].content | wordcount }}{{ messages[0].content | length }}",
    "{{ messages[0] | dictsort | join(',') }}",
    "{% generation %}{{ messages[1].content }}{% endgeneration %}",
    "{{ strftime_now('%d %b %Y') if false }}{{ dict(a=messages[0].content) | tojson }}",
    "{{ messages[0].content | center(60) }}{{ messages[0].content | truncate(12) }}",
    "{{ messages[0].content | reverse }}{{ messages[0].content | urlencode }}{{ messages[0].content | striptags }}",
]

CODE = [
    "{% for m in messages if m.name %}{{ loop.index }}/{{ loop.length }}{{ m.content }}{% else %}none{% endfor %}",
    "{% for m in messages if m.nothing %}{{ m.content }}{% else %}{{ messages[0].content }}{% endfor %}",
    "{% for m in [messages] recursive %}({{ loop(m) if m is sequence and m is not mapping else m.content }})"
    "{% endfor %}",
    "{% for m in messages if m.content recursive %}{{ loop.depth }}{{ m.content }}{% continue %}x{% endfor %}",
    "{% for a, b in messages[0] | dictsort if 'o' in b %}{% for c in b.split() if c != a %}{{ c }}{% endfor %}"
    "{% endfor %}",
    "{% macro outer(m) %}{% macro inner(x, y=m.content) %}{{ y }}{{ varargs }}{{ kwargs }}{% endmacro %}"
    "{{ inner(1, m.content, 2, z=3) }}{% endmacro %}{{ outer(messages[0]) }}",
    "{% macro m(a) %}{% for x in a %}{{ caller(x) }}{% endfor %}{% endmacro %}"
    "{% call(x) m(messages) %}{{ x.content }}{% endcall %}",
    "{{ {messages[0].role: messages[0].content}[messages[0].role] }}{{ messages[1:][0].content }}",
    "{{ [[messages[0].content], ['b']] | sum(start=[]) | join }}{{ messages[0].content[::2] }}",
    "{{ messages[0].content.replace('l', 'L', 1).replace('', '-').replace('zz', '') }}",
    "{{ messages[0].content.ljust(40, '*') }}{{ messages[0].content.expandtabs(4) }}",
    "{{ '%-8s|%08.3f|%+d|%(' % (messages[0].content, 1.5, 2) if false }}{{ '%-30s|' % messages[0].content }}",
    "{% set x = 1 < 2 < 3 %}{{ x }}{{ messages[0].content if 'Hello' in messages[0].content and 2 not in [1, x] }}",
]
"""Statements and operators whose Python code is ours."""


def render(body: str) -> ChatTemplate:
    return ChatTemplate(body, {"bos_token": "<s>"}, date(2024, 7, 26))


@pytest.mark.parametrize("body", BODIES + CODE)
def test_same_text_as_transformers(body: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    raw = [{"role": "user", "content": CONTENT, "name": "Ann"}, {"role": "assistant", "content": "7"}]
    rendered, _ = render_jinja_template([raw], chat_template=body, bos_token="<s>", eos_token="</s>")
    assert render(body).render(Conversation(MESSAGES)) == rendered[0]


MADE_OF_ROWS_ALONE = [body for body in BODIES if not any(word in body for word in ("length", "+ 1", "dictsort"))]


@pytest.mark.parametrize("body", MADE_OF_ROWS_ALONE)
def test_row_text_is_never_taken_for_template_text(body: str) -> None:
    """Visible characters of template origin are all written in the template's own source."""
    text = render(body).render(Conversation(MESSAGES))
    position = 0
    for run in text.runs:
        if run.origin is None:
            own = text.plain[position : position + run.length].strip().strip("(),'\"")
            assert all(char in body.lower() or char in "12" for char in own.lower()), own
        position += run.length
    assert any(run.origin is not None and run.origin.field == Field.BODY for run in text.runs)


def test_variables_of_a_loop_are_no_arguments() -> None:
    body = "{% for m in messages %}{% set x = m.content %}{{ strftime_now('%Y') }}{% endfor %}"
    assert render(body).render(Conversation(MESSAGES)).runs == (Run(8, None),)


def test_calls_that_are_not_covered_are_known() -> None:
    template = render("{{ messages[0].content | urlencode }}{{ messages[0].content.zfill(40) }}")
    text = template.render(Conversation(MESSAGES))
    assert template.environment.uncovered == {"urlencode", "zfill"}
    assert {run.origin.field for run in text.runs if run.origin} == {Field.BODY}
    assert all(run.origin is not None for run in text.runs)


@pytest.mark.parametrize(
    "body",
    [
        "{{ messages[0].content.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ '{0.__class__}'.format(messages[0].content) }}",
        "{{ namespace.__init__.__globals__ }}",
        "{% set ns = namespace(__class__=1) %}",
        "{{ raise_exception('no') }}",
        "{{ 1 / 0 }}",
        "{{ messages[7].content + 'x' }}",
    ],
)
def test_what_a_template_may_not_do_is_a_reject(body: str) -> None:
    with pytest.raises(RejectRow) as caught:
        render(body + "{{ none.x.y }}").render(Conversation(MESSAGES))
    assert caught.value.reason == Reason.TEMPLATE_ERROR


def test_a_broken_template_is_a_config_error_with_its_line() -> None:
    with pytest.raises(ConfigError, match="line 2"):
        render("ok\n{% if %}")


def test_the_clock_is_pinned() -> None:
    assert render("{{ strftime_now('%d %b %Y') }}").render(Conversation(MESSAGES)) == "26 Jul 2024"


def test_errors_call_strings_and_numbers_of_the_row_by_their_plain_names() -> None:
    with pytest.raises(RejectRow, match=r"for \+: 'str' and 'dict'$"):
        render("{{ messages[0].content + {} }}").render(Conversation(MESSAGES))
    with pytest.raises(RejectRow, match="'str object' has no attribute 'nothing'"):
        render("{{ messages[0].content.nothing.more }}").render(Conversation(MESSAGES))


def test_a_number_made_of_row_text_is_the_rows() -> None:
    """Mistral's templates ask whether a result is one; that is nothing to warn of."""
    template = render("{{ messages[0].content | int }}")
    text = template.render(Conversation((Message("user", "12"),)))
    assert text == "12"
    assert [run.origin for run in text.runs] == [Origin(0, Field.BODY)]
    assert not template.environment.uncovered
