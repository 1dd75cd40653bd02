"""A function of the user's own, from a row to a conversation.

Its module travels to the workers by value, unless it belongs to an installed distribution: a worker need not have it.
"""

import importlib
import inspect
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

from pipeline.config import Custom
from pipeline.convert import fields
from pipeline.convert.openai import read_messages
from pipeline.convert.validate import validate
from schemas.conversation import Conversation, Document, TextDocument
from schemas.errors import ConfigError
from schemas.rejects import Reason, RejectRow


class CustomConverter:
    """The function may return a Conversation, a TextDocument, a string (a text), a list of messages, a dict of
    `messages` and perhaps `tools`, or None to reject the row."""

    def __init__(self, settings: Custom, *, loss_weights: bool) -> None:
        self._function = _load(settings.function)
        self._arguments = settings.args
        self._loss_weights = loss_weights

    def __call__(self, row: dict[str, Any]) -> Document:
        try:
            made = self._function(row, **self._arguments)
        except RejectRow:
            raise
        except Exception as error:
            raise RejectRow(Reason.CUSTOM_ERROR, f"{type(error).__name__}: {error}"[:200]) from error
        return self._document(made)

    def _document(self, made: Any) -> Document:
        if isinstance(made, Conversation):
            return validate(made)
        if isinstance(made, TextDocument):
            return made
        if isinstance(made, str):
            return TextDocument(fields.text(made, "the result"))
        if made is None:
            raise RejectRow(Reason.CUSTOM_ERROR, "the function returned None")
        values = made if isinstance(made, dict) else {"messages": made}
        messages = read_messages(values.get("messages"), "messages", {}, loss_weights=self._loss_weights)
        return validate(Conversation(messages, fields.tools(values.get("tools"), "tools")))


def _load(reference: str) -> Any:
    module, _, name = reference.partition(":")
    loaded = _import(module)
    function = getattr(loaded, name, None)
    if not callable(function):
        raise ConfigError(f"transform.function: {module} has no function {name!r}")
    if not _is_installed(loaded):
        cloudpickle.register_pickle_by_value(loaded)
    return function


def _import(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"transform.function: cannot import {module!r}: {error}; run where the module is, or install it"
        ) from error


def _is_installed(module: ModuleType) -> bool:
    paths = [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib", "stdlib")]
    return module.__file__ is None or any(Path(module.__file__).is_relative_to(path) for path in paths)


def module_source(reference: str) -> str:
    """The source text of a custom transform's module: part of the recipe. Raises ConfigError."""
    module = _import(reference.partition(":")[0])
    try:
        return inspect.getsource(module)
    except OSError as error:
        raise ConfigError(f"transform.function: {module.__name__} has no source to put in the recipe's id") from error
