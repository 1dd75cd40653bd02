"""Makes the golden vectors of a data set: its template and its tokenizer on 16 conversations that nobody said."""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from pipeline.chat.formatter import ChatFormatter
from pipeline.config import ToolArguments
from pipeline.convert.json_text import dump_json
from pipeline.convert.messages import OPENAI_ROLES, MessageReader
from pipeline.recipe import Recipe, given_variables
from schemas.conversation import Conversation
from schemas.golden import COUNT, Golden, GoldenVector
from schemas.rejects import RejectRow

Chat = list[dict[str, Any]]

_PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "where"}, "days": {"type": "integer"}},
    "required": ["city"],
}
_TOOLS = [{"type": "function", "function": {"name": "weather", "description": "W \u00e9", "parameters": _PARAMETERS}}]
_RESULT = {"role": "tool", "content": '{"celsius": 15}', "tool_call_id": "abcdefghi", "name": "weather"}
_TEXTS = (
    "Hello.",
    "  white space at the borders \n",
    "\nline one\r\nline two\n\n\tand a tab",
    "Z\u00fcrich, \u6771\u4eac, \u0415\u043a\u0430\u0442\u0435\u0440\u0438\u043d\u0431\u0443\u0440\u0433, \u0627\u0644",
    "a decomposed e\u0301 and a ligature \ufb01",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 and \U0001f600",
    "3.14159 + 2,718 = 1e-5; 1234567890",
    "def f(x):\n    return {x: [x]}\n",
    "<think>typed</think> <b>html</b> {{ braces }} {% not jinja %}",
    '<tool_call>\n{"name": "typed"}\n</tool_call>',
    "ends without a stop ",
    "\u00a0no-break space and zero\u200bwidth",
    "'It\u2019s' \"quoted\" \\back\\slash/",
    "UPPER lower MiXeD snake_case kebab-case",
    "x" * 40 + " " * 12 + "y",
    "Yes.",
)


def make_golden(recipe: Recipe, formatter: ChatFormatter) -> Golden | None:
    """None for a template that does not even take a question and an answer."""
    assert recipe.template is not None
    vectors = list(islice(_vectors(formatter), COUNT))
    if len(vectors) < COUNT:
        return None
    return Golden(
        chat_template_sha256=hashlib.sha256(recipe.template.text.encode()).hexdigest(),
        clock=recipe.config.day,
        template_kwargs=given_variables(recipe.config),
        vectors=vectors,
    )


def _vectors(formatter: ChatFormatter) -> Iterator[GoldenVector]:
    """Of the conversations that the template takes."""
    form = formatter.template.tool_arguments
    for chat, tools in [*_rich_chats(form), *((_turn(text, text), None) for text in _TEXTS)]:
        ids = _encode(formatter, chat, tools, prompt=False)
        if ids is not None:
            prompt_ids = _encode(formatter, chat[:-1], tools, prompt=True)
            yield GoldenVector(messages=chat, tools=tools, ids=ids, prompt_ids=prompt_ids)


def _encode(formatter: ChatFormatter, chat: Chat, tools: list[Any] | None, *, prompt: bool) -> list[int] | None:
    messages = MessageReader(OPENAI_ROLES, loss_weights=False).read_list(chat, "messages")
    definitions = None if tools is None else dump_json(tools, "tools")
    try:
        rendering = formatter.template.render(Conversation(messages, definitions), add_generation_prompt=prompt)
    except RejectRow:
        return None
    ids: list[int] = formatter.encoder.encode(rendering.plain, None).ids.tolist()
    return ids


def _rich_chats(form: ToolArguments) -> Iterator[tuple[Chat, list[Any] | None]]:
    first, second, third = _turn(*_TEXTS[:2]), _turn(*_TEXTS[2:4]), _turn(*_TEXTS[4:6])
    system = {"role": "system", "content": "Answer in one line."}
    called = [first[0], _call(form, ""), _RESULT]
    yield first, None
    yield [*first, *second], None
    yield [system, *first], None
    yield [system, *first, *second, *third], None
    yield [system, *called, third[1]], _TOOLS
    yield [*called, _call(form, "And then."), _RESULT, third[1]], _TOOLS
    yield called[:2], _TOOLS
    yield first, _TOOLS
    yield [first[0], {**first[1], "reasoning_content": "because\nof this"}], None
    yield [*_reasoned(first, "one"), *_reasoned(second, "two")], None


def _call(form: ToolArguments, content: str) -> dict[str, Any]:
    """As the template takes it: servers parse the arguments first, unless it needs their text."""
    arguments: Any = {"city": "Z\u00fcrich", "days": 3}
    function = {"name": "weather", "arguments": arguments if form == "object" else dump_json(arguments, "arguments")}
    call = {"type": "function", "id": "abcdefghi", "function": function}
    return {"role": "assistant", "content": content, "tool_calls": [call]}


def _turn(question: str, answer: str) -> Chat:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _reasoned(turn: Sequence[dict[str, Any]], reasoning: str) -> Chat:
    return [turn[0], {**turn[1], "reasoning_content": reasoning}]
