"""A user's own function from a row to a conversation or a text.

The function's module must be importable where the build starts. A worker needs no copy: unless the module belongs to an
installed distribution, the function travels with the code of its module (of its top-level package, for a package).
Other modules that it imports do have to be installed on the workers.
"""

import importlib
import inspect
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

from pipeline.config import Custom
from pipeline.convert.converter import Converter, Row
from pipeline.convert.fields import require_list, wrong_type
from pipeline.convert.loss import read_loss
from pipeline.convert.messages import OPENAI_ROLES, MessageReader
from pipeline.convert.row_context import ContextColumns, make_conversation
from pipeline.readers.json_depth import TOO_DEEP, is_deep
from schemas.conversation import Conversation, Document, Message, TextDocument
from schemas.errors import ConfigError
from schemas.rejects import Reason, RejectRow

DETAIL_LENGTH = 200


@dataclass(frozen=True, slots=True)
class ConvertCustom:
    """Calls the function; an exception in it rejects the row, and so does None.

    Plain dicts among its results are read as the `openai` transform reads them.
    """

    function: Callable[..., Any]
    name: str
    args: Mapping[str, Any]
    reader: MessageReader

    def __call__(self, row: Row) -> Document:
        try:
            return self._read(self.function(row, **self.args))
        except (RejectRow, KeyboardInterrupt):
            raise
        except BaseException as error:  # the user's code may fail in any way, a library in Rust by no Exception
            detail = f"{self.name}: {type(error).__name__}: {_said(error)}"
            raise RejectRow(Reason.CUSTOM_ERROR, detail[:DETAIL_LENGTH]) from error

    def _read(self, result: Any) -> Document:
        if result is None:
            raise RejectRow(Reason.CUSTOM_ERROR, f"{self.name}: returned None")
        if isinstance(result, TextDocument):
            return result
        if isinstance(result, str):
            return TextDocument(result)
        if isinstance(result, Conversation):
            messages = require_list(result.messages, "messages")
            return replace(result, messages=tuple(map(self._check, messages, count())))
        if is_deep(result):
            raise RejectRow(Reason.WRONG_TYPE, f"{self.name}: its result is {TOO_DEEP}")
        if isinstance(result, dict):
            messages = self.reader.read_list(result.get("messages"), "messages")
            return make_conversation(messages, result, ContextColumns())
        return Conversation(self.reader.read_list(result, self.name))

    def _check(self, message: Any, index: int) -> Message:
        path = f"messages[{index}]"
        if not isinstance(message, Message):
            raise wrong_type(path, "a Message", message)
        weights = self.reader.loss_weights
        loss = read_loss(message.train, message.weight, message.role, path, loss_weights=weights)
        return replace(message, train=loss.train, weight=loss.weight)

    def __reduce__(self) -> tuple[Callable[..., "ConvertCustom"], tuple[Any, ...]]:
        return _restore, (cloudpickle.dumps(self.function), self.name, self.args, self.reader)


def _said(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # its class is the user's, too
        return ""


def _restore(function: bytes, name: str, args: Mapping[str, Any], reader: MessageReader) -> ConvertCustom:
    return ConvertCustom(cloudpickle.loads(function), name, args, reader)


def make_custom(settings: Custom, *, loss_weights: bool) -> Converter:
    """Raises ConfigError where the function cannot be imported."""
    module, function = _import(settings.function)
    if not _is_installed(module):
        cloudpickle.register_pickle_by_value(importlib.import_module(module.__name__.partition(".")[0]))
    return ConvertCustom(function, settings.function, settings.args, MessageReader(OPENAI_ROLES, loss_weights))


def module_source(function: str) -> str:
    """The source text of what travels with `module:function`: the module or, where it is a package's and the package is
    not installed, all modules of the package. Raises ConfigError where there is none."""
    module, _ = _import(function)
    package = importlib.import_module(module.__name__.partition(".")[0])
    try:
        if package is not module and not _is_installed(module):
            folder = Path(inspect.getfile(package)).parent
            files = sorted(folder.rglob("*.py"))
            return "".join(f"# {file.relative_to(folder).as_posix()}\n{file.read_text('utf-8')}" for file in files)
        return inspect.getsource(module)
    except (OSError, TypeError) as error:
        raise ConfigError(
            f"transform.function: {function!r}: the module has no source text, which is part of the recipe; "
            "give a function of a .py file"
        ) from error


def _import(path: str) -> tuple[ModuleType, Callable[..., Any]]:
    name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(name)
    except Exception as error:  # a module may fail in any way while it is imported
        raise ConfigError(
            f"transform.function: {path!r}: cannot import {name!r}: {type(error).__name__}: {error}; "
            "where its file is in this folder, run with PYTHONPATH=."
        ) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        seen = "has no such name" if function is None else f"has a {type(function).__name__} there"
        raise ConfigError(f"transform.function: {path!r}: {name} {seen}; name a function of the module")
    return module, function


def _is_installed(module: ModuleType) -> bool:
    """Whether workers have the module: it came with Python or with a distribution."""
    folders = [sysconfig.get_path(key) for key in ("purelib", "platlib", "stdlib")]
    file = module.__file__
    return file is None or any(Path(file).is_relative_to(folder) for folder in folders)
