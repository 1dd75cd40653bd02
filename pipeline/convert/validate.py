"""What every document must be, whichever transform made it."""

import json

from pipeline.convert.fields import require_list, require_object, require_text, wrong_type
from pipeline.convert.json_text import dump_json, parse_json
from pipeline.convert.row_context import check_variables
from pipeline.convert.spans import check_spans
from schemas.conversation import MESSAGE_ROLES, Conversation, Document, Message, TextDocument, ToolCall
from schemas.rejects import Reason, RejectRow


def validate(document: Document) -> None:
    """Raises RejectRow; its detail names the field and never shows what is in it."""
    if isinstance(document, TextDocument):
        _check_text(document.text, "text")
        if not document.text:
            raise RejectRow(Reason.EMPTY, "the text is empty")
    else:
        _check_conversation(document)


def _check_conversation(conversation: Conversation) -> None:
    for index, message in enumerate(conversation.messages):
        _check_message(message, f"messages[{index}]")
    if not any(map(_says_something, conversation.messages)):
        raise RejectRow(Reason.EMPTY, "no message has any content")
    for key in ("tools", "documents"):
        if getattr(conversation, key) is not None:
            _check_json(getattr(conversation, key), key, list, Reason.INVALID_JSON)
    if conversation.template_kwargs is not None:
        _check_json(conversation.template_kwargs, "template_kwargs", dict, Reason.INVALID_JSON)
        check_variables(json.loads(conversation.template_kwargs), "template_kwargs")


def _says_something(message: Message) -> bool:
    return bool(message.content or message.reasoning_content or message.tool_calls)


def _check_message(message: Message, path: str) -> None:
    if message.role not in MESSAGE_ROLES:
        raise RejectRow(Reason.UNKNOWN_ROLE, f"{path}.role is none of {', '.join(MESSAGE_ROLES)}")
    for key in ("content", "reasoning_content", "tool_call_id", "name"):
        if getattr(message, key) is not None:
            _check_text(getattr(message, key), f"{path}.{key}")
    for index, call in enumerate(require_list(message.tool_calls, f"{path}.tool_calls")):
        _check_call(call, f"{path}.tool_calls[{index}]")
    if message.spans is not None:
        _check_spans(message, f"{path}.spans")
    if require_object(message.extra, f"{path}.extra"):
        extra = f"{path} ({', '.join(map(ascii, message.extra))})"
        _check_encodable(dump_json(message.extra, extra), extra)


def _check_spans(message: Message, path: str) -> None:
    try:
        check_spans(message.spans or (), message.content, path)
    except RejectRow:
        raise
    except (TypeError, ValueError) as error:
        raise wrong_type(path, "pairs of numbers", message.spans) from error


def _check_call(call: object, path: str) -> None:
    if not isinstance(call, ToolCall):
        raise wrong_type(path, "a ToolCall", call)
    _check_text(call.name, f"{path}.name")
    if call.id is not None:
        _check_text(call.id, f"{path}.id")
    _check_json(call.arguments, f"{path}.arguments", dict, Reason.INVALID_TOOL_CALL)


def _check_json(text: object, path: str, kind: type, reason: Reason) -> None:
    """JSON text of an object or a list, also with its escapes spelled out."""
    source = _check_text(text, path)
    value = parse_json(source, path, reason)
    if not isinstance(value, kind):
        raise RejectRow(reason, f"{path}: expected the JSON of a {kind.__name__}, got {type(value).__name__}")
    if "\\u" in source:
        _check_encodable(dump_json(value, path), path)


def _check_text(value: object, path: str) -> str:
    text = require_text(value, path)
    _check_encodable(text, path)
    return text


def _check_encodable(text: str, path: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RejectRow(Reason.UNENCODABLE, f"{path}: a lone surrogate at character {error.start}") from error
