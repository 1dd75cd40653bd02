"""Text around the content of each role, rendered as a loop over the messages would render it."""

from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.chat.prompt_template import compile_prompt_template
from pipeline.chat.shipped import choose_template
from pipeline.chat.template import ChatTemplate
from pipeline.config import PromptTemplate
from schemas.conversation import MESSAGE_ROLES, Conversation, Message, ToolCall
from schemas.policy import DEFAULT_POLICY
from schemas.rejects import RejectRow
from tests.support.families import make_family

TEXT = st.text(max_size=8) | st.sampled_from(
    ["{{ x }}", "{% raw %}", "{# #}", "'", '"', "\\", "\\n", "-%}", "}}", "\r\n", "\n", "\U0001f600", "\x00", "'\"{{"]
)
AFFIXES = st.dictionaries(st.sampled_from(MESSAGE_ROLES), st.tuples(TEXT, TEXT))
TURNS = st.lists(st.tuples(st.sampled_from(MESSAGE_ROLES), TEXT), min_size=1, max_size=4)


def expected(
    affixes: dict[str, tuple[str, str]], turns: list[tuple[str, str]], bos: str | None, *, prompt: bool
) -> str:
    text = bos or ""
    for role, content in turns:
        before, after = affixes.get(role, ("", ""))
        text += before + content + after
        if role == "assistant":
            text += "</s>"
    if prompt:
        text += affixes.get("assistant", ("", ""))[0]
    return text


@settings(max_examples=150, deadline=None)
@given(affixes=AFFIXES, turns=TURNS, bos=st.sampled_from([None, "<s>"]), prompt=st.booleans())
def test_the_text_is_that_of_a_plain_loop(
    affixes: Any, turns: list[tuple[str, str]], bos: str | None, prompt: bool
) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    source = compile_prompt_template(PromptTemplate(**affixes))
    variables = {"eos_token": "</s>"} | ({"bos_token": bos} if bos else {})
    conversation = Conversation(tuple(Message(role, content) for role, content in turns))  # type: ignore[arg-type]
    template = ChatTemplate(source, variables, date(2024, 7, 26))
    made = template.render(conversation, add_generation_prompt=prompt)
    assert made == expected(affixes, turns, bos, prompt=prompt)
    chat = [{"role": role, "content": content} for role, content in turns]
    served, _ = render_jinja_template([chat], chat_template=source, add_generation_prompt=prompt, **variables)
    assert served[0] == made


def test_an_answer_is_trained_with_its_suffix_and_its_end() -> None:
    template = PromptTemplate(user=("Q: ", "\n"), assistant=("A:\n", "\n"), system=("", "\n\n"))
    formatter = make_family("llama3", compile_prompt_template(template))
    turns = (Message("system", "S"), Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    tokens = formatter.format(Conversation((*turns, Message("assistant", "d"))))
    trained = DEFAULT_POLICY.table()[tokens.channel]
    ids = tokens.input_ids
    assert formatter.encoder.decode(ids.tolist()) == (
        "<|begin_of_text|>S\n\nQ: a\nA:\nb\n<|eot_id|>Q: c\nA:\nd\n<|eot_id|>"
    )
    assert formatter.encoder.decode(ids[trained].tolist()) == "b\n<|eot_id|>d\n<|eot_id|>"
    assert tokens.straddling == 0
    assert [int(tokens.input_ids[turn.end - 1]) in formatter.end_ids for turn in tokens.turns] == [True, True]


def test_a_call_has_no_place_in_it() -> None:
    formatter = make_family("llama3", compile_prompt_template(PromptTemplate(user=("Q: ", ""))))
    for content in ("I call.", None):
        call = Message("assistant", content, tool_calls=(ToolCall("f", "{}"),))
        with pytest.raises(RejectRow):
            formatter.format(Conversation((Message("user", "a"), call)))


def test_a_mapping_wins_over_the_tokenizers_own_template() -> None:
    chosen = choose_template(PromptTemplate(user=("Q: ", "\n")), "own", "chatml")
    assert chosen is not None
    assert chosen.origin == "prompt_template"
    assert "'Q: '" in chosen.text
