"""Choosing the chat template: the tokenizer's own, one that we ship, a file, or a prompt template of the config."""

from dataclasses import dataclass
from importlib.resources import files

import fsspec

from pipeline.chat.prompt_template import compile_prompt_template
from pipeline.config import PromptTemplate
from schemas.errors import ConfigError
from schemas.urls import without_secrets

_FOLDER = files("pipeline.chat") / "templates"
# Versions of one template: the number, and the space after control tokens.
_MISTRAL = {
    "mistral-v3": (3, " "),
    "mistral-v3-tekken": (3, ""),
    "mistral-v7": (7, " "),
    "mistral-v7-tekken": (7, ""),
    "mistral-v11": (11, ""),
    "mistral-v13": (13, ""),
}


@dataclass(frozen=True, slots=True)
class TemplateSource:
    """`origin` says where the text came from: `tokenizer`, `shipped:NAME`, `prompt_template`, or the file's path."""

    text: str
    origin: str


def shipped_names() -> list[str]:
    own_files = (entry.name.removesuffix(".jinja") for entry in _FOLDER.iterdir() if entry.name.endswith(".jinja"))
    return sorted([*(name for name in own_files if not name.startswith("_")), *_MISTRAL])


def shipped_template(name: str) -> TemplateSource:
    if name not in _MISTRAL:
        return TemplateSource((_FOLDER / f"{name}.jinja").read_text("utf-8"), f"shipped:{name}")
    version, gap = _MISTRAL[name]
    settings = f"{{%- set version, gap = {version}, '{gap}' -%}}\n"
    return TemplateSource(settings + (_FOLDER / "_mistral.jinja").read_text("utf-8"), f"shipped:{name}")


def choose_template(setting: str | PromptTemplate | None, own: str | None, preset: str | None) -> TemplateSource | None:
    """None where nothing names a template. Raises ConfigError for a name or a file that is not there."""
    if setting is None:
        if own is not None:
            return TemplateSource(own, "tokenizer")
        return shipped_template(preset) if preset else None
    if isinstance(setting, PromptTemplate):
        return TemplateSource(compile_prompt_template(setting), "prompt_template")
    if setting in shipped_names():
        return shipped_template(setting)
    try:
        with fsspec.open(setting, "rt", encoding="utf-8") as file:
            return TemplateSource(file.read(), without_secrets(setting))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"chat_template: {without_secrets(setting)!r} is neither a readable file "
            f"nor one of {', '.join(shipped_names())}"
        ) from error
