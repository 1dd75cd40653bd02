"""A replayed rendering is the template's own: text, runs, prompts, and so ids and channels."""

import copy
import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from agents import make_agent
from families import FAMILIES, MISTRAL, make_family
from formatting import assert_same_format, format_or_reject
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.chat.replay import template as replay
from pipeline.chat.replay.learnt import FREE_LESSONS
from pipeline.chat.replay.template import ReplayDiffers, ReplayingTemplate, difference
from pipeline.chat.replay.tree import Program
from pipeline.chat.template import ChatTemplate
from pipeline.config import ShareGPT
from pipeline.convert.sharegpt import make_sharegpt
from schemas.conversation import Conversation, Message
from schemas.rejects import RejectRow


@pytest.fixture(autouse=True)
def without_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests compare everything themselves."""
    monkeypatch.setattr(replay, "FIRST_CHECKED", 0)
    monkeypatch.setattr(replay, "CHECKED_ONE_IN", 2**40)


class Remembering:
    """`template.render`, run once for each of the two ways to it."""

    def __init__(self, template: ChatTemplate) -> None:
        self._render = template.render
        self._last: tuple[Any, Any] = (None, None)

    def __call__(self, conversation: Conversation, **settings: Any) -> Any:
        asked = (conversation, settings)
        if asked != self._last[0]:
            self._last = (asked, result_of(self._render, asked))
        if isinstance(self._last[1], RejectRow):
            raise self._last[1]
        return self._last[1]


def fresh(name: str) -> ReplayingTemplate:
    template = copy.copy(make_family(name).template)
    template.render = Remembering(template)  # type: ignore[method-assign]
    return ReplayingTemplate(template)


Request = tuple[Conversation, dict[str, bool]]


def requests(conversation: Conversation, *, prompts: int) -> Iterator[Request]:
    """The conversation as a whole, and the prompts of its last answers."""
    messages = conversation.messages
    yield conversation, {}
    answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
    for index in answers[::-1][:prompts]:
        yield replace(conversation, messages=messages[:index]), {"add_generation_prompt": True}


def result_of(render: Callable[..., Any], request: Request) -> Any:
    conversation, settings = request
    try:
        return render(conversation, **settings)
    except RejectRow as reject:
        return reject


def compare(template: ReplayingTemplate, conversations: Iterable[Conversation], prompts: int = 1) -> int:
    """How many renderings were replayed, each of them equal to the template's own."""
    before = template.replayed
    for conversation in conversations:
        for request in requests(conversation, prompts=prompts):
            rendered, replayed = result_of(template.template.render, request), result_of(template.render, request)
            if isinstance(rendered, RejectRow):
                assert isinstance(replayed, RejectRow)
                assert (replayed.reason, replayed.detail) == (rendered.reason, rendered.detail)
            else:
                assert not difference(replayed, rendered)
    return template.replayed - before


@cache
def gsm8k(folder: Path) -> list[Conversation]:
    rows = map(json.loads, (folder / "gsm8k.jsonl").read_text("utf-8").splitlines())
    return [Conversation((Message("user", row["question"]), Message("assistant", row["answer"]))) for row in rows]


@cache
def glaive(folder: Path) -> list[Conversation]:
    convert = make_sharegpt(ShareGPT(type="sharegpt"), loss_weights=False)
    conversations = map(convert, json.loads((folder / "glaive_toolcall_en_demo.json").read_text("utf-8")))
    return [conversation for conversation in conversations if isinstance(conversation, Conversation)]


def similar(conversation: Conversation, seed: int) -> Conversation:
    """The same structure with other contents."""
    rng = random.Random(seed)

    def vary(message: Message) -> Message:
        ends = {"content": ("", "x", " y"), "reasoning_content": ("", "z")}
        texts = {key: getattr(message, key) for key in ends}
        return replace(message, **{k: None if t is None else t + rng.choice(ends[k]) for k, t in texts.items()})

    return replace(conversation, messages=tuple(map(vary, conversation.messages)))


@pytest.mark.parametrize("family", FAMILIES)
def test_real_rows(family: str, shared_data: Path) -> None:
    template = fresh(family)
    whole = family in ("qwen2_5", "llama3_1")
    chats = gsm8k(shared_data)[:: 1 if whole else 50]
    replayed = compare(template, chats)
    refused = [isinstance(result_of(template.template.render, r), RejectRow) for r in requests(chats[0], prompts=1)]
    assert replayed >= (len(chats) - 8) * (2 - sum(refused))
    compare(template, glaive(shared_data)[:: 1 if whole else 4])
    assert not template.refusals


@pytest.mark.parametrize("family", FAMILIES)
def test_agents(family: str) -> None:
    template = fresh(family)
    conversations = [make_agent(seed, most_turns=30 if seed < 2 else 6) for seed in range(12)]
    rows = [similar(conversation, seed) for conversation in conversations for seed in range(5)]
    replayed = compare(template, rows, prompts=2)
    assert replayed > (10 if family != "mistral_v1" else 4)  # which refuses tools and system messages
    # Before v7, Mistral's templates look whether the content of a tool's result is a number.
    assert set(template.refusals) <= ({"the filter int"} if family in MISTRAL else set())
    if family not in ("cohere", "deepseekv3", "gemma", "gemma3", *MISTRAL):
        assert replayed > 60


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_and_channels(family: str) -> None:
    """Through the formatter: with replay, and without."""
    replaying = copy.copy(make_family(family))
    replaying.replaying = fresh(family)
    rendering = copy.copy(replaying)
    rendering.replaying = rendering.template  # type: ignore[assignment]
    compared = 0
    for seed in [seed for seed in range(6) for _ in range(4)]:
        conversation = make_agent(seed, most_turns=3)
        results = format_or_reject(replaying, conversation), format_or_reject(rendering, conversation)
        assert_same_format(*results)
        compared += not isinstance(results[0], str)
    assert compared or replaying.replaying.replayed


BODIES = [
    "{{ messages[0].content }}{{ messages[1].content }}",
    "{{ 'a' ~ messages[0].content ~ 1 }}{{ messages[0].content + messages[1].content }}",
    "{{ messages[0].content | trim | upper }}{{ messages[0].content.strip('a<').lower() }}",
    "{{ (messages[0].content + ' ') | trim }}{{ ('<' ~ messages[0].content) | trim }}",
    "{{ messages[0].content | replace('a', '<l>') | title }}{{ messages[0].content | replace('a', '') }}",
    "{{ messages[0].content | replace('a', messages[1].content) }}",
    "{{ messages[0].content | indent(2) }}|{{ messages[0].content | indent(2, true, true) }}",
    "{{ messages | map(attribute='content') | join('|') }}{{ 'x'.join([messages[0].content, 'y']) }}",
    "{{ messages[0].content | tojson }}{{ messages | tojson(indent=2) }}{{ messages[0] | tojson(sort_keys=true) }}",
    "{{ messages[0].content.split('\\n')[-1].strip() }}{{ messages[0].content.split('a') | first }}",
    "{% for part in messages[0].content.split('</think>') %}[{{ part }}]{{ loop.index }}{% endfor %}",
    "{{ messages[0].content.split() | join('-') }}{{ messages[0].content.split() | length > 1 }}",
    "{{ messages[0].content.partition('a')[2] }}{{ messages[0].content.splitlines() | last }}",
    "{% set x %}<{{ messages[0].content }}>{% endset %}{{ x | trim }}{{ '<a' in x }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(messages[0].content) | trim }}",
    "{% filter upper %}a{{ messages[0].content }}{% endfilter %}",
    "{% if 'a' in messages[0].content %}1{% elif messages[0].content in 'baab' %}2{% else %}3{% endif %}",
    "{% if messages[0].content in ['a', ''] or messages[0].content is in 'b' %}1{% else %}2{% endif %}",
    "{% if messages[0].content == messages[1].content %}1{% elif messages[0].content < 'b' %}2{% endif %}",
    "{% if messages[0].content | length > 3 and not messages[0].content is lower %}1{% endif %}{{ messages | length }}",
    "{{ messages[0].content | length }}{{ messages[0].content[1:-1] }}{{ messages[0].content[0] }}",
    "{{ messages[0].content[: (messages[0].content | length) - 2] }}",
    "{{ messages[0].content or 'none' }}{{ messages[0].content | default('d', true) }}",
    "{% if messages[0].content.startswith(('a', '<')) %}{{ messages[0].content.removeprefix('a') }}{% endif %}",
    "{% set names = {'a': 'A', 'b': 'B'} %}{{ names[messages[0].content] if messages[0].content in names }}",
    "{% generation %}{{ messages[1].content }}{% endgeneration %}{{ messages[0].content | center(9) }}",
    "{{ [messages[0].content, messages[1].content] | sort | join }}{{ [messages[1].content] | max }}",
    "{% for key, value in messages[0].data | items %}{{ key }}={{ value }};{% endfor %}{{ 'x' ~ messages[0].data }}"
    "{{ messages[0].data | length }}",
    "{% for key, value in messages[0].data | dictsort %}{{ key }}{{ value is mapping }}{{ value | tojson }}{% endfor %}"
    "{{ messages[0].data | tojson }}{{ messages[0].data.a }}{{ 'a' in messages[0].data }}",
    "{{ messages[0].data | tojson(indent=2, sort_keys=true) }}"
    "{{ messages[0].data | tojson(ensure_ascii=true, separators=(',', ':')) }}",
    "{% if messages[0].data.a is integer and messages[0].data.a > 1 %}{{ messages[0].data.a + 1 }}{% endif %}",
    "{% if messages[0].data.b is sequence and messages[0].data.b is not string %}{{ messages[0].data.b | length }}"
    "{% for x in messages[0].data.b %}{{ x }}{% endfor %}{% endif %}{{ messages[0].data.get('b') }}",
    "{{ messages[0].content | e }}{{ messages[0].content | safe }}{{ messages[0].get('content') }}",
    "{% if messages[0].content == 'a' %}{{ raise_exception('a') }}{% endif %}"
    "{{ messages[0].content.split('a', 1)[1] }}",
]
REFUSED = [
    "{{ messages[0].content | urlencode }}",
    "{{ messages[0].content.zfill(9) }}",
    "{{ messages[0].content.rindex('') }}",
    "{{ {'a': 'A'}[messages[0].content ~ 'b'] }}",
    "{{ messages[0].content[::-1] }}",
    "{{ messages[0].content | wordcount }}",
    "{{ messages[0].content | int }}",
    "{{ messages[0].content | list }}",
    "{% for letter in messages[0].content %}{{ letter }}{% endfor %}",
    "{{ '%s' % messages[0].content }}{{ '%s' | format(messages[0].content) }}",
    "{{ '{}'.format(messages[0].content) }}",
    "{{ [messages[0].content] }}",
    "{{ [messages[0].content, 'a'] | unique | join }}",
    "{{ {messages[0].content: 1} | length }}",
    "{{ messages[0].content * 2 }}",
    "{{ messages[0].data.a * 2 }}",
    "{{ range(messages[0].content | length) | join }}",
    "{{ dict(a=messages[0].content).b }}{{ messages[0].content | truncate(4) }}",
]
CONTENT = st.one_of(
    st.sampled_from(["", "a", "b", "ab", " a ", "<a", "a\nb</think>c"]),
    st.text(alphabet="ab <>\n\u00e9\u0130", max_size=8),
)
VALUE = st.one_of(st.none(), st.booleans(), st.integers(-2, 5), st.floats(-2, 2), CONTENT)
DATA = st.dictionaries(
    st.sampled_from("abc"), st.one_of(VALUE, st.lists(VALUE, max_size=2), st.dictionaries(CONTENT, VALUE, max_size=2))
)
CHAT = st.tuples(CONTENT, CONTENT, DATA)


def make(body: str) -> ReplayingTemplate:
    return ReplayingTemplate(ChatTemplate(body, {}, date(2024, 7, 26)))


def chat(content: str, answer: str, data: dict[str, Any]) -> Conversation:
    return Conversation((Message("user", content, extra={"data": data}), Message("assistant", answer)))


@pytest.mark.parametrize("body", BODIES)
def test_every_operation(body: str) -> None:
    """Each row twice: what was learnt of one row is asked of others, and of itself."""
    template = make(body)

    @settings(max_examples=25, derandomize=True)
    @given(st.lists(CHAT, min_size=4, max_size=12))
    def check(chats: list[tuple[str, str, dict[str, Any]]]) -> None:
        compare(template, [chat(*values) for values in chats * 2], prompts=0)

    check()
    assert template.replayed > 60
    assert not template.refusals


def test_every_kind_of_value() -> None:
    kinds = ("boolean", "float", "integer", "mapping", "none", "number", "sequence", "iterable", "string", "undefined")
    asked = "".join(f"{{{{ messages[0].data.a is {kind} }}}} " for kind in kinds)
    template = make(asked + "{{ messages[0].data.a | tojson }}{{ messages[0].data.a }}")
    values = [
        1,
        1.0,
        1.5,
        -7,
        2**70,
        float("inf"),
        "1",
        "",
        True,
        False,
        [],
        {},
        [1],
        [None, []],
        {"b": []},
        [[]],
        [{}],
    ]
    rows = [chat("", "", {"a": value}) for value in values] + [chat("", "", {"b": 1}), chat("", "", {})]
    compare(template, [row for row in rows for _ in range(2)], prompts=0)
    compare(template, rows[::-1], prompts=0)
    assert template.replayed >= 1.5 * len(rows)


@pytest.mark.parametrize("body", REFUSED)
def test_what_is_not_listed_takes_the_slow_path(body: str) -> None:
    template = make(body)
    values: list[tuple[str, str, dict[str, Any]]] = [("7", "b", {"a": 2}), ("ab", "", {"a": 3}), ("<a ", "a", {"a": 1})]
    compare(template, [chat(*each) for each in values * 3], prompts=0)
    assert template.refusals
    assert not template.replayed


@pytest.mark.parametrize(
    ("body", "content"),
    [
        ("{{ messages[0].content.lstrip(messages[1].content) }}", "a" * 60_000),
        ("{% for n in range(200) %}{{ messages[0].content }}{% endfor %}", "a" * 200_000),
    ],
)
def test_a_row_is_refused_whatever_came_before(body: str, content: str) -> None:
    """What is past the template's limits is past them for a shape that was learnt, too."""
    template, row = make(body), chat(content, content, {})
    for number in range(50):
        template.render(chat(f"row {number}", "row", {}))
    with pytest.raises(RejectRow, match="LimitExceeded"):
        template.template.render(row)
    with pytest.raises(RejectRow, match="LimitExceeded"):
        template.render(row)


def test_a_wrong_replay_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first renderings of a block, and then one in so many, are compared with the template's own."""
    monkeypatch.setattr(replay, "FIRST_CHECKED", 2)
    monkeypatch.setattr(replay, "CHECKED_ONE_IN", 8)
    template = make("{{ messages[0].content }}")
    rows = [chat(f"row {number}", "", {}) for number in range(200)]
    for row in rows[:20]:
        template.render(row)
    monkeypatch.setattr(Program, "run", lambda *_: template.template.render(rows[0]))
    for row in rows[20:]:
        template.render(row)  # by its text, row 0 is not of the sample
    template.start_block()
    for row in rows[20:22]:
        with pytest.raises(ReplayDiffers, match=r"characters; user assistant; no tools$"):
            template.render(row)
    template.render(rows[20])


def test_a_structure_learns_while_that_pays() -> None:
    template = make(
        "{% if messages[0].content == messages[1].content %}1{% endif %}{{ messages[0].content | length == n }}"
    )
    never_again = make("{% for part in messages[0].content.split('a') %}{{ part }}{% endfor %}")
    rows = [chat("a" * number, "", {}) for number in range(60)]
    compare(template, rows, prompts=0)
    compare(never_again, rows, prompts=0)
    assert template.replayed >= 55
    assert never_again.rendered == len(rows)
    compare(never_again, rows, prompts=0)
    assert never_again.replayed == FREE_LESSONS


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "MOST_STEPS", 3)
    monkeypatch.setattr(replay, "MOST_ONCE_SEEN", 2)
    template = make("{{ messages[0].content }}{{ messages[0].data.a }}{{ messages[1].content }}")
    for data in ({"a": 1}, {"b": 1}, {"c": []}):
        compare(template, [chat("a", "b", data)] * 5, prompts=0)
    with_answer = [replace(chat("a", "b", {}), messages=chat("a", "b", {}).messages * n) for n in range(1, 6)]
    compare(template, with_answer * 2, prompts=0)
    assert template._steps < 20
    assert len(template._once_seen) <= 2


def test_tools_are_no_part_of_the_shape() -> None:
    """Where a template prints each definition as JSON, definitions never seen before are replayed."""
    template = fresh("qwen3")
    conversation = make_agent(0, most_turns=2)
    tools = [[{"type": "function", "function": {"name": f"f{n}", "parameters": {f"p{n}": n}}}] for n in range(40)]
    rows = [replace(conversation, tools=json.dumps(definitions)) for definitions in tools]
    assert compare(template, rows) >= 70


def test_a_very_long_row_is_left_to_the_template() -> None:
    """Longer than a replayed rendering may be: lessons of its structure come to nothing, and the row is rendered."""
    template = make("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}")
    for size in (10, 10, 3_000_000, 10, 3_000_000):
        conversation = Conversation((Message("user", "a" * size),))
        assert len(template.render(conversation)) == size + len("<user>")
    template.teach(Conversation((Message("user", "b" * 3_000_000), Message("user", "c"))), add_generation_prompt=False)
