"""What a template does, learnt by rendering conversations made for the purpose."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from pipeline.chat.regions import Lexemes, find_regions, row_spans
from pipeline.chat.template import ChatTemplate
from pipeline.chat.traced import Traced
from pipeline.encoders.base import AddedToken, TokenFinder
from schemas.conversation import Message, ToolCall
from schemas.errors import ConfigError
from schemas.rejects import RejectRow

_ASK = Message(role="user", content="Question")
_ANSWER = Message(role="assistant", content="Answer")
_CALL = Message(role="assistant", tool_calls=(ToolCall("function", '{"key": "value"}', "abcdefghi"),))
_RESULT = Message(role="tool", content="Result", tool_call_id="abcdefghi", name="function")

_CONVERSATIONS = ((_ASK, _ANSWER), (_ASK, _ANSWER, _ASK, _ANSWER), (_ASK, _CALL, _RESULT, _ANSWER), (_ASK, _CALL))


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
            template.render(messages, tools)
        except RejectRow as error:
            refused.append(error.detail)
    template.asks_for_date = template.environment.asked_for_time
    if len(refused) == 2 * len(conversations):
        raise ConfigError(f"the chat template renders no conversation, not even a question and an answer: {refused[0]}")


@dataclass(frozen=True, slots=True)
class TurnEnds:
    """The tokens that end a turn, and the one to append where the template leaves the last turn open."""

    tokens: tuple[AddedToken, ...]
    closing: str | None


def choose_tool_arguments(template: ChatTemplate) -> None:
    """Arguments go in as objects, as servers give them, unless the template cannot print them so."""
    for template.tool_arguments in ("object", "string"):
        rendering = _try_render(template, (_ASK, _CALL, _RESULT, _ANSWER)) or _try_render(template, (_ASK, _CALL))
        if rendering is not None and "'key'" not in rendering and '\\"key' not in rendering:
            return
    template.tool_arguments = "object"


def find_turn_ends(
    template: ChatTemplate, added: Sequence[AddedToken], stop_ids: Sequence[int], eos: AddedToken | None
) -> TurnEnds:
    """The stop ids of the model, and the first special token that the template writes after an assistant message."""
    special = [token for token in added if token.special or token.id in stop_ids]
    written = list(_tokens_after_answers(template, special))
    ids = {*stop_ids, *(token.id for token in written)} | ({eos.id} if eos else set())
    closing = written[0] if written else eos
    return TurnEnds(tuple(token for token in added if token.id in ids), closing.content if closing else None)


def _tokens_after_answers(template: ChatTemplate, special: Sequence[AddedToken]) -> Iterator[AddedToken]:
    finder = TokenFinder(special)
    by_id = {token.id: token for token in special}
    for messages, rendering in _renderings(template):
        for start, end in _gaps_after_answers(rendering, messages):
            found = next(finder.find(rendering.plain[start:end]), None)
            if found:
                yield by_id[found.id]


def _gaps_after_answers(rendering: Traced, messages: Sequence[Message]) -> Iterator[tuple[int, int]]:
    """Template text from an assistant message's last row character to the next message's first."""
    rows = row_spans(rendering)
    for number, span in enumerate(rows):
        following = rows[number + 1] if number + 1 < len(rows) else None
        ends_turn = following is None or following.origin.message != span.origin.message
        if ends_turn and span.origin.message >= 0 and messages[span.origin.message].role == "assistant":
            yield span.end, following.start if following else len(rendering)


def find_border_tokens(template: ChatTemplate, added: Sequence[AddedToken], lexemes: Lexemes) -> tuple[AddedToken, ...]:
    """Added tokens, flagged special or not, that the template writes outside what the model generates and never
    inside it: headers and the like. Typed in content they must stay text."""
    outside: set[int] = set()
    inside: set[int] = set()
    for messages, rendering in _renderings(template):
        rows = row_spans(rendering)
        try:
            regions = find_regions(rendering, rows, messages, partial(template.prompt, messages, None), lexemes)
        except RejectRow:
            continue
        for span in lexemes.added.find(rendering.plain):
            if any(row.start < span.content.stop and span.content.start < row.end for row in rows):
                continue
            generated = any(region.start <= span.content.start < region.end_token for region in regions)
            (inside if generated else outside).add(span.id)
    return tuple(token for token in added if token.id in outside - inside)


def _renderings(template: ChatTemplate) -> Iterator[tuple[Sequence[Message], Traced]]:
    """The probe conversations that the template does not refuse."""
    for messages in _CONVERSATIONS:
        rendering = _try_render(template, messages)
        if rendering is not None:
            yield messages, rendering


def _try_render(template: ChatTemplate, messages: Sequence[Message]) -> Traced | None:
    try:
        rendering = template.render(messages, None)
        row_spans(rendering)
    except RejectRow:
        return None
    return rendering
