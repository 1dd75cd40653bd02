"""What a template does, learnt by rendering conversations made for the purpose."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

from pipeline.chat.lexemes import Lexemes, first_in
from pipeline.chat.regions import find_regions, first_stretches, row_spans, template_gaps
from pipeline.chat.template import ChatTemplate
from pipeline.chat.traced import Traced
from pipeline.config import ToolArguments
from pipeline.encoders.base import AddedToken, TokenFinder
from schemas.conversation import Conversation, Message, ToolCall
from schemas.errors import ConfigError
from schemas.rejects import RejectRow

Messages = tuple[Message, ...]

_ASK = Message(role="user", content="Question")
_ANSWER = Message(role="assistant", content="Answer")
_THOUGHTFUL = Message(role="assistant", content="Answer", reasoning_content="Reasoning")
_CALL = Message(role="assistant", tool_calls=(ToolCall("function", '{"key": "value"}', "abcdefghi"),))
_RESULT = Message(role="tool", content="Result", tool_call_id="abcdefghi", name="function")

_CALLING = ((_ASK, _CALL, _RESULT, _ANSWER), (_ASK, _CALL))
_CONVERSATIONS = ((_ASK, _ANSWER), (_ASK, _ANSWER, _ASK, _ANSWER), (_ASK, _THOUGHTFUL), *_CALLING)


_TOOLS = (
    '[{"type": "function", "function": {"name": "function", "description": "Does it.", "parameters": '
    '{"type": "object", "properties": {"key": {"type": "string", "description": "A key."}}, "required": ["key"]}}}]'
)


def try_out(template: ChatTemplate) -> None:
    """Renders conversations of every kind, to see whether the template asks for the date. Raises ConfigError where
    it refuses them all."""
    system = Message(role="system", content="Instruction")
    conversations = [*_CONVERSATIONS, *((system, *messages) for messages in _CONVERSATIONS)]
    refused = []
    for messages, tools in ((messages, tools) for messages in conversations for tools in (None, _TOOLS)):
        try:
            template.render(Conversation(messages, tools))
        except RejectRow as error:
            refused.append(error.detail)
    template.asks_for_date = template.environment.asked_for_time
    if len(refused) == 2 * len(conversations):
        raise ConfigError(f"the chat template renders no conversation, not even a question and an answer: {refused[0]}")


@dataclass(frozen=True, slots=True)
class TurnEnds:
    """The tokens that end a turn; `stops` are those at which a server stops. Of an answer and of a call, the one to
    append where the template leaves the last turn open."""

    tokens: tuple[AddedToken, ...]
    stops: tuple[AddedToken, ...]
    after_answer: str | None
    after_call: str | None


def choose_call_style(template: ChatTemplate) -> None:
    """For `auto`: arguments go in as objects, as servers give them, unless the template cannot print them so. A message
    without content lacks the key, unless the template then fails or leaves out the call (DeepSeek asks for a null)."""
    given: tuple[ToolArguments, ...] = (template.tool_arguments,)
    styles = ("object", "string") if template.tool_arguments == "auto" else given
    for template.tool_arguments, template.null_content in product(styles, (False, True)):
        rendering = next(filter(None, (_try_render(template, messages) for messages in _CALLING)), None)
        if rendering is not None and _shows_call(rendering):
            return
    template.tool_arguments, template.null_content = styles[0], False


def _shows_call(rendering: Traced) -> bool:
    """Whether the call is printed, its arguments neither as Python's repr nor as JSON in a JSON string."""
    return "value" in rendering and "'key'" not in rendering and '\\"key' not in rendering


def find_turn_ends(
    template: ChatTemplate, added: Sequence[AddedToken], stop_ids: Sequence[int], eos: AddedToken | None
) -> TurnEnds:
    """The stop ids of the model, its eos, and the first special token that the template writes after an assistant
    message, where no stop token follows it."""
    stops = [token for token in added if token.id in stop_ids or token == eos]
    special = [token for token in added if token.special or token in stops]
    after_answers = list(_tokens_after(template, special, stops, _CONVERSATIONS, calls=False))
    after_calls = list(_tokens_after(template, special, stops, _CALLING, calls=True))
    ids = {token.id for token in (*stops, *after_answers, *after_calls)}
    after_answer = next(iter(after_answers), eos)
    after_call = next(iter(after_calls), after_answer)
    return TurnEnds(
        tokens=tuple(token for token in added if token.id in ids),
        stops=tuple(stops),
        after_answer=after_answer.content if after_answer else None,
        after_call=after_call.content if after_call else None,
    )


def _tokens_after(
    template: ChatTemplate,
    special: Sequence[AddedToken],
    stops: Sequence[AddedToken],
    conversations: Sequence[Messages],
    *,
    calls: bool,
) -> Iterator[AddedToken]:
    """The token after each assistant message with, or without, calls."""
    by_id = {token.id: token for token in special}
    finders = TokenFinder(stops), TokenFinder(special)
    for messages, rendering in _renderings(template, conversations):
        rows = row_spans(rendering)
        for index, stretch in first_stretches(rows).items():
            if messages[index].role == "assistant" and bool(messages[index].tool_calls) == calls:
                gaps = list(template_gaps(rendering.plain, rows, stretch))
                found = next(filter(None, (first_in(finder, rendering.plain, gaps) for finder in finders)), None)
                if found:
                    yield by_id[found.id]


def find_border_tokens(template: ChatTemplate, added: Sequence[AddedToken], lexemes: Lexemes) -> tuple[AddedToken, ...]:
    """Added tokens, flagged special or not, that the template writes outside what the model generates and never
    inside it: headers and the like. Typed in content they must stay text. A tag whose closing tag the model writes is
    the model's own, also where every prompt begins with it (`<think>`)."""
    outside: set[str] = set()
    inside: set[str] = set()
    for messages, rendering in _renderings(template, _CONVERSATIONS):
        rows = row_spans(rendering)
        try:
            prompt = partial(template.prompt, Conversation(messages))
            assistants = [index for index, message in enumerate(messages) if message.role == "assistant"]
            regions = find_regions(rendering, rows, assistants, prompt, lexemes)
        except RejectRow:
            continue
        for span in lexemes.added.find(rendering.plain):
            if any(row.start < span.content.stop and span.content.start < row.end for row in rows):
                continue
            generated = any(region.start <= span.content.start < region.end_token for region in regions)
            (inside if generated else outside).add(rendering.plain[span.content])
    inside |= {f"<{content[2:]}" for content in inside if content.startswith("</")}
    return tuple(token for token in added if token.content in outside - inside)


def _renderings(template: ChatTemplate, conversations: Sequence[Messages]) -> Iterator[tuple[Messages, Traced]]:
    """The probe conversations that the template does not refuse."""
    for messages in conversations:
        rendering = _try_render(template, messages)
        if rendering is not None:
            yield messages, rendering


def _try_render(template: ChatTemplate, messages: Messages) -> Traced | None:
    try:
        rendering = template.render(Conversation(messages))
        row_spans(rendering)
    except RejectRow:
        return None
    return rendering
