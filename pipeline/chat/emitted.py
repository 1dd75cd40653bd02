"""Nothing lost: what a template does not emit of the messages that it was given."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from pipeline.chat.layout import Layout
from pipeline.chat.traced import Field, Origin
from schemas.conversation import Message
from schemas.rejects import Reason, RejectRow

_CALL_FIELDS = (Field.TOOL_CALL, Field.CALL_NAME)
_END_OF_THOUGHT = "</think>"
"""Templates that move reasoning out of the content, or drop it, cut the content at this tag."""


def dropped_reasoning(layout: Layout, messages: Sequence[Message]) -> frozenset[int]:
    """The assistant messages whose reasoning is not in the rendering. It may be dropped from all but the very last
    message; every message's text and calls must be there. Raises RejectRow."""
    emitted = _emitted(layout)
    dropped = set()
    for index, message in enumerate(messages):
        if _drops_text(emitted, index, message) or _drops_reasoning(emitted, index, message):
            dropped.add(index)
        for part in range(len(message.tool_calls)):
            if not any(emitted.get(Origin(index, field, part)) for field in _CALL_FIELDS):
                raise RejectRow(Reason.NOT_EMITTED, f"the template drops tool_calls[{part}] of messages[{index}]")
    last = len(messages) - 1
    if last in dropped:
        raise RejectRow(Reason.NOT_EMITTED, f"the template drops the reasoning of the last answer, messages[{last}]")
    return frozenset(dropped)


def _emitted(layout: Layout) -> Mapping[Origin, str]:
    """The characters of each origin, as far as they are not white space at their borders."""
    parts: dict[Origin, list[str]] = defaultdict(list)
    for start, end, origin in layout.rows:
        whole = (
            origin._replace(part=0) if origin.part and origin.field == Field.BODY else origin
        )  # in and outside spans
        parts[whole].append(layout.text[start:end])
    return {origin: "".join(found).strip() for origin, found in parts.items()}


def _drops_text(emitted: Mapping[Origin, str], index: int, message: Message) -> bool:
    """Whether reasoning that was typed in the content is dropped. Raises RejectRow where other text is."""
    content = message.content or ""
    text = emitted.get(Origin(index, Field.BODY), "")
    if text == content.strip():
        return False
    given, found = _visible(content), _visible(text)
    if len(found) >= len(given):
        return False
    thought, tag, answer = given.rpartition(_END_OF_THOUGHT)
    if message.role != "assistant" or not tag or not found.endswith(answer):
        raise RejectRow(Reason.NOT_EMITTED, f"the template drops text of messages[{index}] ({message.role})")
    return thought.rpartition("<think>")[2] not in found


def _drops_reasoning(emitted: Mapping[Origin, str], index: int, message: Message) -> bool:
    reasoning = message.reasoning_content
    return bool(reasoning and reasoning.strip()) and not emitted.get(Origin(index, Field.REASONING))


def _visible(text: str) -> str:
    """The characters that are not white space."""
    return "".join(text.split())
