"""A rendering whose iterations were skipped or replayed is the template's own: text, runs, refusals."""

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from agents import make_agent
from families import FAMILIES, make_family
from formatting import assert_same_format, format_or_reject
from hypothesis import given, settings
from hypothesis import strategies as st
from template_chats import chats

from pipeline.chat.joined_text import JoinedText
from pipeline.chat.limits import Budget
from pipeline.chat.replay import template as replay
from pipeline.chat.replay.structure import Structures
from pipeline.chat.replay.template import ReplayDiffers, ReplayingTemplate, difference
from pipeline.chat.steps.memory import Run
from pipeline.chat.steps.template import StepwiseTemplate
from pipeline.chat.template import ChatTemplate
from pipeline.chat.traced import Traced, concat
from pipeline.config import OpenAI, ShareGPT
from pipeline.convert.openai import make_openai
from pipeline.convert.sharegpt import make_sharegpt
from schemas.conversation import Conversation, Message
from schemas.rejects import RejectRow

Request = tuple[Conversation, bool]


@pytest.fixture(autouse=True)
def without_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests compare everything themselves."""
    monkeypatch.setattr(replay, "FIRST_CHECKED", 0)
    monkeypatch.setattr(replay, "CHECKED_ONE_IN", 2**40)
    monkeypatch.setattr(replay, "STEPS_CHECKED_ONE_IN", 2**40)


def stepwise(template: ChatTemplate) -> StepwiseTemplate:
    """With views of its own: what the template itself renders shares nothing with it."""
    own = copy.copy(template)
    return StepwiseTemplate(own, Structures(own))


def requests(conversation: Conversation) -> Iterator[Request]:
    """The conversation as a whole, every prompt of it, as formatting asks for them, and the whole once more."""
    yield conversation, False
    for index, message in enumerate(conversation.messages):
        if message.role == "assistant" and index:
            yield replace(conversation, messages=conversation.messages[:index]), True
    yield conversation, True
    yield conversation, False


def result_of(template: ChatTemplate | StepwiseTemplate, request: Request) -> Traced | tuple[str, str]:
    try:
        return template.render(request[0], add_generation_prompt=request[1])
    except RejectRow as reject:
        return reject.reason, reject.detail


def unshared(conversation: Conversation) -> Conversation:
    """Equal, of objects that nothing has seen before."""
    return replace(conversation, messages=tuple(replace(message) for message in conversation.messages))


def compare(template: StepwiseTemplate, reference: ChatTemplate, conversation: Conversation) -> int:
    """How many renderings went without the template itself, each equal to its own."""
    before = template.stepped
    for request in requests(conversation):
        mine, own = result_of(template, request), result_of(reference, (unshared(request[0]), request[1]))
        if isinstance(own, tuple):
            assert mine == own
        else:
            assert isinstance(mine, Traced)
            assert not difference(mine, own), request
    return template.stepped - before


def known(template: StepwiseTemplate) -> int:
    """Iterations that were not run."""
    return sum(loop.known for loop in template.loops)


def small_chats() -> Iterator[Conversation]:
    convert = make_openai(OpenAI(type="openai"), loss_weights=False)
    for contents in (("q", "a"), ("", " x\n"), ("<think>t</think>b", "<think>\nu\n</think>\n\nc"), ("1", "2")):
        for chat in chats(*contents).values():
            row = convert({"messages": chat})
            assert isinstance(row, Conversation)
            yield row


LOOKING_FAR = ("diffusion_gemma", "gemma4", "gemma4_v3", "gemma4_v4", "gemma4_v5", "gptoss")
"""Families whose loops look at all the messages that follow, so that only tools are skipped."""


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family: str, shared_data: Path) -> None:
    reference = make_family(family).template
    template = stepwise(reference)
    convert = make_sharegpt(ShareGPT(type="sharegpt"), loss_weights=False)
    glaive = map(convert, json.loads((shared_data / "glaive_toolcall_en_demo.json").read_text("utf-8"))[::16])
    agents = [make_agent(seed, most_turns=20 if seed < 2 else 4) for seed in range(10)]
    rows = [*agents, *small_chats(), *(row for row in glaive if isinstance(row, Conversation))]
    stepped = sum(compare(template, reference, row) for row in rows)
    assert template.loops
    assert stepped > 40
    assert known(template) > (100 if family not in LOOKING_FAR else 0) or family == "gptoss"
    assert template.lessons.given < 60


@pytest.mark.parametrize("family", ["qwen3", "qwen2_5", "qwen3_6", "glm4moe"])
def test_agents_are_put_together_of_what_was_learnt(family: str) -> None:
    """Of conversations whose shapes never came before, hardly any iteration is run."""
    template = stepwise(make_family(family).template)
    for seed in range(60):
        for request in requests(make_agent(seed, most_turns=8)):
            result_of(template, request)
    loop = max(template.loops, key=lambda loop: loop.tried)
    tried, known_before = loop.tried, loop.known
    for seed in range(60, 90):
        for request in requests(make_agent(seed, most_turns=8)):
            result_of(template, request)
    share = (loop.known - known_before) / (loop.tried - tried)
    assert share > 0.85


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_and_channels(family: str) -> None:
    """Through the formatter, against the template alone."""
    fast, plain = copy.copy(make_family(family)), copy.copy(make_family(family))
    fast.template = copy.copy(fast.template)
    fast.replaying = ReplayingTemplate(fast.template)
    plain.replaying = plain.template  # type: ignore[assignment]
    formatted = 0
    for seed in range(8):
        conversation = make_agent(seed, most_turns=4)
        results = format_or_reject(fast, conversation), format_or_reject(plain, unshared(conversation))
        assert_same_format(*results)
        formatted += not isinstance(results[0], str)
    assert formatted or fast.replaying.rendered


EVERY = "{% for message in messages %}"
BODIES = {
    "next": EVERY + "{{ messages[loop.index0 + 1].role == 'user' }}{{ message.content }}{% endfor %}",
    "over next": EVERY + "{{ messages[loop.index + 1].content }}|{{ message.content }}{% endfor %}",
    "wraps around": EVERY + "{{ messages[loop.index0 - 1].content }}<{{ message.content }}{% endfor %}",
    "neighbours": EVERY + "{{ loop.previtem.role }}{{ loop.nextitem.role }}{{ message.content }}{% endfor %}",
    "last": EVERY + "{{ message.content if loop.last else message.role }}{% endfor %}",
    "length": EVERY + "{{ messages | length }}{{ loop.length }}{{ loop.revindex }}{{ message.content }}{% endfor %}",
    "slice": EVERY
    + "{% for other in messages[loop.index:] %}{{ other.role }}{% endfor %}{{ message.role }}{% endfor %}",
    "count": "{% set ns = namespace(n=0) %}" + EVERY + "{% set ns.n = ns.n + 1 %}{{ ns.n }}{% endfor %}{{ ns.n }}",
    "texts": "{% set ns = namespace(a='') %}" + EVERY + "{% set ns.a = ns.a ~ message.content %}{% endfor %}{{ ns.a }}",
    "state": "{% set ns = namespace(was='') %}"
    + EVERY
    + "{{ ns.was }}{{ message.content }}{% set ns.was = message.role %}{% endfor %}",
    "threshold": "{% set ns = namespace(at=0) %}"
    + EVERY
    + "{% if message.role == 'user' %}{% set ns.at = loop.index0 %}{% endif %}{% endfor %}"
    + EVERY
    + "{{ message.content if loop.index0 > ns.at }}{{ loop.index <= ns.at }}{% endfor %}",
    "threshold and more": "{% set ns = namespace(at=messages | length - 2) %}"
    + EVERY
    + "{{ message.content if loop.index0 > ns.at }}{{ ns.at }}{% endfor %}",
    "backwards": "{% set ns = namespace(on=true, at=0) %}{% for message in messages[::-1] %}"
    "{% set at = (messages | length - 1) - loop.index0 %}"
    "{% if ns.on and message.role == 'user' %}{% set ns.on = false %}{% set ns.at = at %}{% endif %}{% endfor %}"
    "{{ ns.at }}",
    "on again": "{% set ns = namespace(on=true, at=0) %}"
    + EVERY
    + "{% if ns.on and message.role == 'user' %}{% set ns.on = false %}x{% endif %}{% set ns.on = true %}{% endfor %}",
    "two names": "{% set ns = namespace(n=0) %}{% set other = ns %}"
    + EVERY
    + "{{ ns.n }}{% set other.n = other.n + 1 %}{{ message.role }}{% endfor %}",
    "in a list": "{% set all = [namespace(n=0)] %}"
    + EVERY
    + "{% for one in all %}{{ one.n }}{% set one.n = one.n + 1 %}{% endfor %}{{ message.role }}{% endfor %}",
    "cycler": "{% set turn = cycler('a', 'b', 'c') %}" + EVERY + "{{ turn.next() }}{{ message.role }}{% endfor %}",
    "joiner": "{% set comma = joiner() %}" + EVERY + "{{ comma() }}{{ message.role }}{% endfor %}",
    "changed": EVERY + "{{ loop.changed(message.role) }}{{ loop.cycle('x', 'y') }}{% endfor %}",
    "iterator": "{% set roles = messages | map(attribute='role') %}"
    + EVERY
    + "{% for role in roles %}{{ role }}{% break %}{% endfor %}{{ message.content }}{% endfor %}",
    "iterator in a list": "{% set roles = [messages | map(attribute='role')] %}"
    + EVERY
    + "{{ message.role }}{{ roles | length }}{% for role in roles[0] %}{{ role }}{% break %}{% endfor %}{% endfor %}",
    "iterator in a space": "{% set ns = namespace(all=messages | map(attribute='role')) %}"
    + EVERY
    + "{{ message.role }}{% for role in ns.all %}{{ role }}{% break %}{% endfor %}{% endfor %}",
    "continue": "{% set ns = namespace(n=0) %}"
    + EVERY
    + "{% set ns.n = ns.n + 1 %}{% if message.role == 'system' %}{% continue %}{% endif %}{{ ns.n }}{% endfor %}",
    "break": EVERY + "{{ message.content }}{% if message.content == 'b' %}{% break %}{% endif %}{% endfor %}",
    "macro": "{% set ns = namespace(n=0) %}{% macro told(text) %}{{ ns.n }}{{ text }}{{ add_generation_prompt }}"
    "{% endmacro %}" + EVERY + "{% set ns.n = ns.n + 1 %}{{ told(message.content) }}{% endfor %}",
    "macros": "{% if messages | length > 2 %}{% macro m(t) %}<{{ t }}>{% endmacro %}{% else %}{% macro m(t) %}{{ t }}"
    "{% endmacro %}{% endif %}" + EVERY + "{{ m(message.content) }}{% endfor %}",
    "prompt": EVERY + "{{ message.content }}{% if add_generation_prompt %}!{% endif %}{% endfor %}",
    "around": "{% set first = messages[0].content %}{% set count = messages | length %}"
    + EVERY
    + "{{ first }}{{ message.content }}{{ count }}{% endfor %}",
    "loop of a part": "{% set rest = messages[1:] %}{% for m in rest %}{{ rest[loop.index0 + 1].role }}{{ m.content }}"
    "{% endfor %}",
    "conditional list": "{% if messages[0].role == 'system' %}{% set rest = messages[1:] %}{% else %}"
    "{% set rest = messages %}{% endif %}{% for m in rest %}{{ m.content }}{{ loop.first }}{% endfor %}",
    "look into an iterator": "{% set roles = messages | map(attribute='role') %}"
    + EVERY
    + "{% if roles | first == 'user' %}1{% endif %}{{ message.content }}{% endfor %}{{ roles | list | length }}",
    "iterator and in": "{% set roles = messages | map(attribute='role') %}"
    + EVERY
    + "{% if 'user' in roles %}1{% endif %}{{ message.content }}{% endfor %}",
    "threshold from the end": "{% set space = namespace(at=messages | length - 4) %}"
    + EVERY
    + "{% if loop.index0 > space.at %}1{% endif %}{{ message.content }}{% endfor %}",
    "shadow": "{% set content = 'outer' %}"
    + EVERY
    + "{% if message.role == 'user' %}{% set content = message.content %}{% endif %}{{ content }}{% endfor %}",
    "shadow of a variable": EVERY
    + "{% if message.role == 'user' %}{% set name = 1 %}{% endif %}{{ name }}{% endfor %}",
    "blocks of text": EVERY + "{% set text %}[{{ message.content }}]{% endset %}{{ text | trim }}"
    "{% filter upper %}{{ loop.last }}{{ message.content }}{% endfilter %}{% endfor %}",
    "generation": EVERY + "{% generation %}{{ message.content }}{% endgeneration %}{{ loop.index }}{% endfor %}",
    "tests of content": EVERY + "{% if '<' in message.content %}1{% elif message.content.startswith('a') %}2{% endif %}"
    "{{ message.content | trim }}{% endfor %}",
    "nested": EVERY
    + "{% for other in messages %}{{ loop.index }}{{ other.role == message.role }}{% endfor %}{% endfor %}",
    "indirect": EVERY + "{% set here = loop %}{{ here.last }}{{ message.role }}{% endfor %}",
    "else": EVERY + "{{ message.role }}{{ loop.last }}{% else %}none{% endfor %}",
    "filtered": "{% for message in messages if message.role != 'system' %}{{ loop.index }}{{ message.content }}"
    "{% endfor %}",
    "unpacked": "{% for role, group in messages | groupby('role') %}{{ role }}{{ group | length }}{% endfor %}",
    "fails later": EVERY
    + "{% if loop.index == 4 %}{{ raise_exception('four') }}{% endif %}{{ message.role }}{% endfor %}",
    "twice": EVERY
    + "{{ loop.index }}{{ message.content }}{% endfor %}"
    + EVERY
    + "[{{ message.content }}]{% endfor %}",
    "null": EVERY + "{{ message.nothing }}{{ none }}{{ message.content }}{% endfor %}",
}
VARIABLES = {"name": "N"}
TEXTS = ("", "a", "b", "<a", " a\n", "ab")
MESSAGE = st.builds(Message, st.sampled_from(["system", "user", "assistant", "tool"]), st.sampled_from(TEXTS))
ROW = st.builds(Conversation, st.lists(MESSAGE, min_size=1, max_size=9).map(tuple))


@pytest.mark.parametrize("body", BODIES)
@settings(max_examples=15, deadline=None)
@given(st.lists(ROW, min_size=2, max_size=12))
def test_whatever_an_iteration_looks_at(body: str, rows: list[Conversation]) -> None:
    source = BODIES[body] + "{% if add_generation_prompt %}>{% endif %}"
    reference = ChatTemplate(source, VARIABLES, date(2024, 7, 26))
    template = stepwise(reference)
    for row in rows:
        compare(template, reference, row)
        compare(template, reference, replace(row, messages=(row.messages[0], *rows[0].messages[1:])))


STATEFUL = ("two names", "in a list", "cycler", "joiner", "changed", "indirect")


def test_which_bodies_are_skipped() -> None:
    """The tests above would hold of a template that skips nothing."""
    row = Conversation(
        tuple(Message(role, "a") for role in ("system", "user", *("assistant", "tool") * 5, "assistant"))
    )
    for body, source in BODIES.items():
        template = stepwise(ChatTemplate(source, VARIABLES, date(2024, 7, 26)))
        for request in requests(row):
            result_of(template, request)
        if body in (*STATEFUL, "iterator", "iterator in a list", "iterator in a space", "look into an iterator"):
            assert not known(template), body
        elif body in ("next", "last", "state", "threshold", "macro", "shadow", "count", "loop of a part"):
            assert known(template) > 10, body


@pytest.mark.parametrize("pieces", [1, 40])
def test_nothing_passes_that_the_template_would_refuse(pieces: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skipping an iteration costs what running it cost, so that a row is refused for the template's work or is not,
    whatever was rendered before. With less work than a template may do, so that the test has less to do."""
    allow = Budget.__init__

    def allow_less(budget: Budget, characters: int, messages: int) -> None:
        allow(budget, characters, messages)
        budget.left -= 95_000

    monkeypatch.setattr(Budget, "__init__", allow_less)
    outcomes = []
    for work in (500, 1000):
        row = Conversation(tuple(Message("assistant" if n % 2 else "user", f"{n}") for n in range(20)))
        loops = "{% for n in range(WORK) %}{{ message.content if n < PIECES }}{% endfor %}"
        source = (EVERY + loops + "{% endfor %}").replace("WORK", str(work)).replace("PIECES", str(pieces))
        reference = ChatTemplate(source, {}, date(2024, 7, 26))
        template = stepwise(reference)
        for request in [*requests(row), *requests(row)]:
            mine, own = result_of(template, request), result_of(reference, (unshared(request[0]), request[1]))
            assert isinstance(mine, tuple) == isinstance(own, tuple)
            outcomes.append(isinstance(own, tuple))
    assert min(outcomes.count(True), outcomes.count(False)) > 5


def test_a_wrong_iteration_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "FIRST_CHECKED", 1)
    template = ReplayingTemplate(ChatTemplate(EVERY + "{{ message.content }}{% endfor %}", {}, date(2024, 7, 26)))
    template.start_block()
    monkeypatch.setattr(Run, "begin", lambda *_: False)
    with pytest.raises(ReplayDiffers, match="characters; user; no tools"):
        template.render(Conversation((Message("user", "a"),)))


def test_a_text_whose_runs_are_joined_later() -> None:
    parts = [Traced("a"), "bc", Traced(""), Traced("d"), ""]
    joined = JoinedText(parts, 1000)
    assert joined.plain == "abcd"
    assert not difference(joined, concat(parts))
    assert "".join(joined.pieces) == joined
