"""How tokens are shown: the text of each, and a style for each channel."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.text import Text

from pipeline.encoders.base import Encoder
from schemas.channels import NO_LOSS, Part, Role, unpack_channel

_STYLES = {
    Role.NONE: "bright_black",
    Role.SYSTEM: "magenta",
    Role.USER: "cyan",
    Role.ASSISTANT: "green",
    Role.TOOL: "yellow",
    Role.TEXT: "blue",
}
_PART_STYLES = {Part.TEMPLATE: "dim", Part.REASONING: "italic", Part.TOOL_CALL: "bright_green", Part.END: "bold"}
_TRAINED = "reverse"


@dataclass(frozen=True, slots=True)
class ShownToken:
    id: int
    text: str
    role: str
    part: str
    last_turn: bool
    trained: bool

    @property
    def style(self) -> str:
        role, part = Role[self.role.upper()], Part[self.part.upper()]
        return " ".join([_STYLES[role], _PART_STYLES.get(part, ""), _TRAINED if self.trained else ""]).strip()


def shown_tokens(
    ids: Sequence[int], channels: Sequence[int], trained: Sequence[bool], encoder: Encoder
) -> list[ShownToken]:
    shown = []
    for token_id, text, byte, is_trained in zip(ids, token_texts(ids, encoder), channels, trained, strict=True):
        channel = unpack_channel(byte)
        names = channel.role.name.lower(), channel.part.name.lower()
        shown.append(ShownToken(token_id, text, *names, channel.last_turn, bool(is_trained and not byte & NO_LOSS)))
    return shown


def token_texts(ids: Sequence[int], encoder: Encoder) -> list[str]:
    """The text of each id. Where a character is spread over several ids, the last of them has it and the others are
    empty."""
    texts, held = [], []
    for token_id in ids:
        held.append(token_id)
        text = encoder.decode(held)
        if text.endswith("\ufffd") and len(held) < 4:
            texts.append("")
        else:
            texts.append(text)
            held = []
    return texts


def colored(tokens: Iterable[ShownToken]) -> Text:
    """Tokens one after the other; line ends are drawn, and kept."""
    text = Text()
    for token in tokens:
        text.append(token.text.replace("\n", "\u21b5\n"), style=token.style)
    return text


def legend() -> Text:
    text = Text("roles: ")
    for role, style in _STYLES.items():
        text.append(role.name.lower(), style=style).append("  ")
    text.append("| parts: ")
    for part, style in _PART_STYLES.items():
        text.append(part.name.lower(), style=style).append("  ")
    return text.append("| ").append("trained", style=_TRAINED)
