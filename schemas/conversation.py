"""What a row becomes: a conversation, or a plain text document."""

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

MessageRole = Literal["system", "developer", "user", "assistant", "tool"]
MESSAGE_ROLES: tuple[MessageRole, ...] = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a function. `arguments` is JSON text: it stays text until the template asks for it."""

    name: str
    arguments: str
    id: str | None = None


Span: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Message:
    """One message. Null fields are absent from what the template sees.

    `train=False` (or `weight=0`) keeps every token of the message out of the loss; another `weight`
    is a fractional loss weight. With `spans`, characters of `content` outside of these [begin, end) are
    kept out of the loss. `extra` holds further keys of the row's message, passed to the template as
    they came.
    """

    role: MessageRole
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    train: bool | None = None
    weight: float | None = None
    spans: tuple[Span, ...] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages, and what else of the row the template sees, as JSON text: the lists of tool definitions and of
    documents to answer from, and an object of further variables."""

    messages: tuple[Message, ...]
    tools: str | None = None
    documents: str | None = None
    template_kwargs: str | None = None


@dataclass(frozen=True, slots=True)
class TextDocument:
    """Plain text to be trained on as it is, ended by EOS."""

    text: str


Document: TypeAlias = Conversation | TextDocument
