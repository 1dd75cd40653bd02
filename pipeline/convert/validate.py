"""What every conversation must be, whatever it came from."""

from schemas.conversation import Conversation
from schemas.rejects import Reason, RejectRow


def validate(conversation: Conversation) -> Conversation:
    """Raises RejectRow for a conversation without messages, or without anything that a model could learn to write."""
    if not conversation.messages:
        raise RejectRow(Reason.EMPTY, "the conversation has no message")
    if not any(message.content or message.tool_calls for message in conversation.messages):
        raise RejectRow(Reason.EMPTY, "no message has any content")
    return conversation
