"""Documents, variables, reasoning and tool arguments reach the template as a server's would, and are traced."""

import json
from datetime import date
from typing import Any

import pytest

from pipeline.chat.probe import choose_call_style
from pipeline.chat.regions import row_spans
from pipeline.chat.template import ChatTemplate
from pipeline.chat.traced import Field, Origin
from pipeline.config import ToolArguments
from schemas.conversation import Conversation, Message, ToolCall
from schemas.policy import DEFAULT_POLICY
from tests.support.families import make_family, make_served

ODD = {"zeta": 1, "alpha": {"10": "x", "9": [{"b": 1, "a": None}], "": 0}, "Z": 1.0, "\u00e9": "\u00e9", "beta": True}
DOCUMENTS = [{"title": "T", "text": "It rains."}, {"text": "<b>", "title": "U", "n": [1.5, None]}]
TOOLS = [{"type": "function", "function": {"parameters": ODD, "name": "f"}}]
PRINTS_ALL = """
{%- if tools %}{{ tools | tojson }}|{% endif -%}
{%- if documents %}{% for d in documents %}{{ loop.index0 }} {{ d.title }}: {{ d['text'] }} {{ d | tojson(indent=2) }}
{% endfor %}{% endif -%}
{%- if think is not defined or think %}thinking {{ effort | default('high') }}|{% endif -%}
{%- for m in messages %}{{ m.role }}:{{ m.reasoning }}{{ m.content }}
{%- for call in m.tool_calls or [] %}{{ call.function.arguments | tojson }}{% endfor %};
{%- endfor -%}
{%- if add_generation_prompt %}assistant:{{ 'no' if think is false else 'yes' }}{% endif %}"""
CALL = Message("assistant", "x", tool_calls=(ToolCall("f", json.dumps(ODD)),))
ASK, ANSWER = Message("user", "a"), Message("assistant", "b", "why")
KWARGS: list[dict[str, Any]] = [
    {},
    {"think": False},
    {"think": None},
    {"effort": "low"},
    {"effort": 3, "think": True, "list": [1]},
]


def raw(message: Message) -> dict[str, Any]:
    made: dict[str, Any] = {
        "role": message.role,
        "content": message.content,
        "reasoning": message.reasoning_content or "",
    }
    if message.tool_calls:
        made["tool_calls"] = [{"type": "function", "function": {"name": "f", "arguments": ODD}}]
    return made


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("kwargs", KWARGS)
@pytest.mark.parametrize("given", [True, False])
def test_the_text_is_that_of_transformers(kwargs: dict[str, Any], given: bool, prompt: bool) -> None:
    """Keys in their order, switches as switches, in the prompt as in the whole."""
    from transformers.utils.chat_template_utils import render_jinja_template

    documents, tools = (DOCUMENTS, TOOLS) if given else (None, None)
    messages = (ASK, CALL, ASK, ANSWER)
    chat = [{key: value for key, value in raw(message).items() if value != ""} for message in messages]
    served, _ = render_jinja_template(
        [chat], tools=tools, documents=documents, chat_template=PRINTS_ALL, add_generation_prompt=prompt, **kwargs
    )
    template = ChatTemplate(PRINTS_ALL, {}, date(2024, 7, 26))
    texts = (None if value is None else json.dumps(value) for value in (tools, documents))
    made = template.render(Conversation(messages, *texts, json.dumps(kwargs)), add_generation_prompt=prompt)
    assert made == served[0]
    assert not template.environment.uncovered


def test_documents_and_variables_are_of_no_message() -> None:
    template = ChatTemplate(PRINTS_ALL, {}, date(2024, 7, 26))
    row = Conversation((ASK,), documents=json.dumps(DOCUMENTS), template_kwargs='{"effort": "low"}')
    rendering = template.render(row)
    owned = [
        rendering.plain[start:end] for start, end, origin in row_spans(rendering) if origin == Origin(-1, Field.ROW)
    ]
    assert owned[:2] == ["T", "It rains."]
    assert "low" in owned
    assert not any("thinking" in text for text in owned)


def test_a_row_wins_over_the_config_and_neither_over_the_messages() -> None:
    template = ChatTemplate(PRINTS_ALL, {"effort": "high", "think": True}, date(2024, 7, 26))
    assert "thinking high" in template.render(Conversation((ASK,)))
    assert "thinking low" in template.render(Conversation((ASK,), template_kwargs='{"effort": "low", "messages": []}'))
    assert "user:" in template.render(Conversation((ASK,), template_kwargs='{"messages": []}'))


@pytest.mark.parametrize("thinking", [None, True, False])
def test_a_rows_switch_moves_the_border_of_what_is_trained(thinking: bool | None) -> None:
    """With Qwen 3's enable_thinking off the server writes the empty think block, else the model does."""
    formatter, served = make_family("qwen3"), make_served("qwen3")
    kwargs = {} if thinking is None else {"enable_thinking": thinking}
    row = Conversation((ASK, Message("assistant", "b")), template_kwargs=json.dumps(kwargs))
    prompt = formatter.template.prompt(row, 1)
    assert prompt == served.apply_chat_template(
        [{"role": "user", "content": "a"}], tokenize=False, add_generation_prompt=True, **kwargs
    )
    tokens = formatter.format(row)
    trained = tokens.input_ids[DEFAULT_POLICY.table()[tokens.channel]]
    expected = "b<|im_end|>" if thinking is False else "<think>\n\n</think>\n\nb<|im_end|>"
    assert formatter.encoder.decode(trained.tolist()) == expected


@pytest.mark.parametrize(("setting", "printed"), [("object", "{'a': 1}"), ("string", '{"a": 1}'), ("auto", '{"a": 1}')])
def test_the_form_of_tool_arguments_is_chosen_or_found(setting: ToolArguments, printed: str) -> None:
    calls = "{% for c in m.tool_calls %}{{ c.function.arguments }}{% endfor %}"
    source = "{% for m in messages %}{{ m.content }}" + calls + "{% endfor %}"
    template = ChatTemplate(source, {}, date(2024, 7, 26), setting)
    choose_call_style(template)
    call = Message("assistant", "x", tool_calls=(ToolCall("f", '{"a": 1}'),))
    assert template.render(Conversation((call,))) == "x" + printed
