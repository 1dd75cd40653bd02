"""Every family x kind of chat x content, compared with transformers: one cell of the table in docs/templates.md.

The oracles are transformers' own rendering and tokenization of the untouched template, the prompt that it serves
before each answer, and the regions that TRL's hand-patched twin of a template marks with {% generation %}.
"""

import functools
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from families import FAMILIES, MISTRAL, make_family, make_served, template_folder, template_source
from template_chats import TOOLS, Chat, chats, contents

from pipeline.chat.channels import character_channels
from pipeline.chat.formatter import ChatFormatter, Tokens
from pipeline.chat.layout import Layout
from schemas.channels import Part, unpack_channel
from schemas.conversation import Conversation, Message, ToolCall
from schemas.policy import DEFAULT_POLICY
from schemas.rejects import Reason, RejectRow

Oracle = Literal["reject", "prompt", "twin"]


class Difference(NamedTuple):
    """What an oracle has that we have not (`missing`), or the other way round (`extra`); ANSWER is the content.

    Of the oracle `prompt`, `extra` is what the served prompt forces beyond the header, None where it differs before
    that: the history is rewritten. Of `reject`, `missing` is what the template leaves out.
    """

    oracle: Oracle
    family: str
    kind: str
    extra: str | None = ""
    missing: str = ""


@dataclass
class Outcome:
    """What came of a cell. `refused` by the template itself; `rejected` by us."""

    refused: bool = False
    rejected: bool = False
    text: bool = False
    ids: bool = False
    prompts: int = 0
    prompts_equal: int = 0
    twin: bool = False
    twin_equal: bool = False
    turns: int = 0
    terminated: int = 0
    dropped: int = 0
    straddling: int = 0
    differences: list[Difference] = field(default_factory=list)


class Cell(NamedTuple):
    family: str
    kind: str
    content: str


def cells() -> Iterator[Cell]:
    """Long contents only where they cost little: they are of two kinds."""
    for family in FAMILIES:
        for content, pair in contents(family).items():
            for kind in chats(*pair):
                if content != "long" or kind in ("multi", "tools"):
                    yield Cell(family, kind, content)


def chat_of(cell: Cell) -> Chat:
    return chats(*contents(cell.family)[cell.content])[cell.kind]


def tools_of(chat: Chat) -> list[Any] | None:
    return TOOLS if any(message.get("tool_calls") for message in chat) else None


def as_conversation(chat: Chat) -> Conversation:
    messages = []
    for raw in chat:
        calls = [(call["function"], call["id"]) for call in raw.get("tool_calls", [])]
        made = [ToolCall(f["name"], json.dumps(f["arguments"], ensure_ascii=False), at) for f, at in calls]
        fields = {key: value for key, value in raw.items() if key != "tool_calls"}
        messages.append(Message(**fields, tool_calls=tuple(made)))
    tools = tools_of(chat)
    return Conversation(tuple(messages), json.dumps(tools) if tools else None)


def as_served(chat: Chat, *, arguments_as_text: bool) -> Chat:
    """The chat as a server gives it to the template."""
    chat = json.loads(json.dumps(chat))
    for message in chat:
        if "reasoning_content" in message:
            message["thinking"] = message["reasoning_content"]
        for call in message.get("tool_calls", []) if arguments_as_text else []:
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return chat


def served_text(family: str, chat: Chat, tools: list[Any] | None, *, prompt: bool = False) -> str | None:
    """What transformers renders; None where the template refuses."""
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        rendered, _ = render_jinja_template(
            [chat],
            tools=tools,
            chat_template=template_source(family),
            add_generation_prompt=prompt,
            **FAMILIES[family].special_tokens,
        )
    except Exception:  # a template refuses in any way it likes
        return None
    return str(rendered[0])


@functools.cache
def twin_source(family: str) -> str | None:
    folder = template_folder()
    path = folder / f"{family}_training.jinja" if folder and family not in MISTRAL else None
    return path.read_text("utf-8") if path and path.exists() else None


def twin_characters(family: str, chat: Chat, tools: list[Any] | None, text: str) -> set[int] | None:
    """The characters that the twin marks as generated; None where there is no twin, or its text is another."""
    from transformers.utils.chat_template_utils import render_jinja_template

    source = twin_source(family)
    if source is None:
        return None
    try:
        rendered, spans = render_jinja_template(
            [chat],
            tools=tools,
            chat_template=source,
            return_assistant_tokens_mask=True,
            **FAMILIES[family].special_tokens,
        )
    except Exception:  # as above
        return None
    return {at for start, end in spans[0] for at in range(start, end)} if rendered[0] == text else None


def compare(cell: Cell) -> Outcome:
    """Raises AssertionError where a law is broken that knows no exception."""
    family, outcome = cell.family, Outcome()
    formatter, chat = make_family(family), chat_of(cell)
    tools, conversation = tools_of(chat), as_conversation(chat)
    seen = as_served(chat, arguments_as_text=formatter.template.tool_arguments == "string")
    text = served_text(family, seen, tools)
    tokens = _try_format(formatter, conversation)
    if isinstance(tokens, RejectRow):
        outcome.refused, outcome.rejected = text is None, text is not None
        assert (tokens.reason == Reason.TEMPLATE_ERROR) == outcome.refused, (cell, tokens)
        if outcome.rejected:
            outcome.differences.append(Difference("reject", family, cell.kind, missing=_left_out(tokens.detail)))
        return outcome
    assert text is not None, cell
    layout = formatter.lay_out(conversation)
    closing = layout.text.removeprefix(text)
    outcome.text = layout.text.startswith(text) and (not closing or closing in token_texts(family, formatter.end_ids))
    outcome.ids = _ids_equal(cell, tokens.input_ids.tolist(), text, layout.text, closed=bool(closing))
    _compare_prompts(cell, outcome, layout, seen, tools)
    _compare_twin(cell, outcome, layout, seen, tools, text)
    _check_parts(cell, layout)
    outcome.turns, outcome.straddling = len(tokens.turns), tokens.straddling
    outcome.terminated = sum(int(tokens.input_ids[turn.end - 1]) in formatter.end_ids for turn in tokens.turns)
    outcome.dropped = sum(turn.reasoning_dropped for turn in tokens.turns)
    return outcome


def _try_format(formatter: ChatFormatter, conversation: Conversation) -> Tokens | RejectRow:
    try:
        return formatter.format(conversation)
    except RejectRow as reject:
        return reject


def _left_out(detail: str) -> str:
    """The reject's words without the numbers of messages."""
    words = re.sub(r"(?: of|,) messages\[.*", "", detail)
    return words.removeprefix("the template ")


def token_texts(family: str, ids: list[int]) -> list[str]:
    return [str(make_served(family).decode([index])) for index in ids]


def _ids_equal(cell: Cell, ids: list[int], text: str, ours: str, *, closed: bool) -> bool:
    """Typed control tokens are compared as Hugging Face parses them."""
    formatter = make_family(cell.family)
    if cell.content == "control token":
        ids = formatter.encoder.encode(ours, None).ids.tolist()
    expected = make_served(cell.family)(text, add_special_tokens=False)["input_ids"]
    return bool(ids[: len(ids) - closed] == expected)


def _compare_prompts(cell: Cell, outcome: Outcome, layout: Layout, chat: Chat, tools: list[Any] | None) -> None:
    regions = {region.message: region for region in reversed(layout.regions)}
    for index, message in enumerate(chat):
        if message["role"] != "assistant":
            continue
        prompt = served_text(cell.family, chat[:index], tools, prompt=True)
        if prompt is None:
            continue
        outcome.prompts += 1
        region = regions[index]
        is_prefix = layout.text.startswith(prompt)
        assert region.served == is_prefix, (cell, index)
        if is_prefix:
            assert region.start == len(prompt), (cell, index, layout.text[region.start :][:40], prompt[-40:])
            outcome.prompts_equal += 1
        else:
            start = region.start
            forced = prompt[start:] if prompt[:start] == layout.text[:start] else None
            outcome.differences.append(Difference("prompt", cell.family, cell.kind, forced))


def _compare_twin(cell: Cell, outcome: Outcome, layout: Layout, chat: Chat, tools: list[Any] | None, text: str) -> None:
    wanted = twin_characters(cell.family, chat, tools, text)
    if wanted is None:
        return
    outcome.twin = True
    had = {at for region in layout.regions for at in range(region.start, min(region.end, len(text)))}
    outcome.twin_equal = had == wanted
    for places in _runs(sorted(had ^ wanted), wanted):
        piece = text[places[0] : places[-1] + 1]
        piece = "ANSWER" if piece == contents(cell.family)[cell.content][1].strip() else piece
        extra, missing = ("", piece) if places[0] in wanted else (piece, "")
        outcome.differences.append(Difference("twin", cell.family, cell.kind, extra, missing))


def _runs(places: list[int], wanted: set[int]) -> Iterator[list[int]]:
    """Runs of neighbouring places that are all missing, or all extra."""
    for _, run in itertools.groupby(enumerate(places), key=lambda pair: (pair[1] - pair[0], pair[1] in wanted)):
        yield [place for _, place in run]


def _check_parts(cell: Cell, layout: Layout) -> None:
    """The default policy trains exactly the regions; part 0 never occurs in one."""
    messages = as_conversation(chat_of(cell)).messages
    channels = character_channels(layout, messages, make_family(cell.family).lexemes, len(messages) - 1)
    trained = DEFAULT_POLICY.table()[channels]
    inside = {at for region in layout.regions for at in range(region.start, region.end)}
    for at, byte in enumerate(channels.tolist()):
        assert trained[at] == (at in inside), (cell, at, layout.text[at])
        assert at not in inside or unpack_channel(byte).part != Part.TEMPLATE, (cell, at, layout.text[at])
