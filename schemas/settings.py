"""How a config file is read: YAML, `--set dotted.key=value`, and errors that say which key was meant."""

import difflib
import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from schemas.errors import ConfigError
from schemas.yaml_text import MOST_BYTES, load_yaml

Settings = TypeVar("Settings", bound=BaseModel)

_MAPPING, _LIST = "expected a mapping, as in {key: value}", "expected a list, as in [value, value]"
_EXPECTED = {
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), _MAPPING),
    **dict.fromkeys(("list_type", "tuple_type"), _LIST),
}
"""What pydantic says in Python's terms, by its type of error."""


MOST_PROBLEMS, MOST_CHARACTERS = 20, 200
"""So many are told at once, and so much is shown of a value."""


def load_settings(model: type[Settings], path: Path, overrides: Sequence[str] = ()) -> Settings:
    """Read a YAML file into `model`. Raises ConfigError with one line for each thing that is wrong."""
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES).decode()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot read the config: {error}") from error
    try:
        values = load_yaml(text) or {}
    except ValueError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a config is a mapping of keys to values, this is a {type(values).__name__}")
    for override in overrides:
        apply_override(values, override)
    return validate_settings(model, values, where=str(path))


def validate_settings(model: type[Settings], values: Any, where: str) -> Settings:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{where}: {line}" for line in _describe(error, model))) from error


def apply_override(values: dict[str, Any], override: str) -> None:
    """Apply `dotted.key=value` (the value is YAML; a number in the path indexes a list)."""
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise ConfigError(f"--set {override!r}: expected KEY=VALUE, as in --set seq_len=2048")
    try:
        value = load_yaml(text)
    except ValueError as error:
        raise ConfigError(f"--set {override!r}: the value is not valid YAML: {error}") from error
    *parents, last = dotted.split(".")
    node: Any = values
    for key in parents:
        node = _child(node, key, override)
    if isinstance(node, list):
        node[_list_index(node, last, override)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise ConfigError(f"--set {override!r}: {'.'.join(parents)} is a {type(node).__name__}, it has no keys")


def _child(node: Any, key: str, override: str) -> Any:
    if isinstance(node, list):
        return node[_list_index(node, key, override)]
    if isinstance(node, dict):
        if node.get(key) is None:
            node[key] = {}
        return node[key]
    raise ConfigError(f"--set {override!r}: {key!r} is below a {type(node).__name__}, which has no keys")


def _list_index(node: list[Any], key: str, override: str) -> int:
    if not key.isdecimal() or int(key) >= len(node):
        raise ConfigError(f"--set {override!r}: {key!r} is no index of a list of {len(node)}; use 0 to {len(node) - 1}")
    return int(key)


def _describe(error: ValidationError, model: type[BaseModel]) -> list[str]:
    known = _all_keys(model.model_json_schema())
    lines = []
    for item in error.errors(include_url=False)[:MOST_PROBLEMS]:
        where = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            key = str(item["loc"][-1])
            near = difflib.get_close_matches(key, sorted(known - {key}), n=1, cutoff=0.6)
            lines.append(f"unknown key {where!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        elif item["type"] == "missing":
            lines.append(f"{where!r} is missing: add it")
        else:
            message = _EXPECTED.get(item["type"], item["msg"].removeprefix("Value error, "))
            seen = "" if isinstance(item["input"], dict | list) else f" (got {_shown(item['input'])})"
            lines.append(f"{where!r}: {message}{seen}" if where else f"{message}{seen}")
    if error.error_count() > MOST_PROBLEMS:
        lines.append(f"and {error.error_count() - MOST_PROBLEMS} more")
    return lines


def _shown(value: Any) -> str:
    """A value of YAML as it may stand in the file."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    text = str(value) if isinstance(value, date) else repr(value)
    return text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + "..."


def _all_keys(schema: dict[str, Any]) -> set[str]:
    keys = set(schema.get("properties", {}))
    for definition in schema.get("$defs", {}).values():
        keys |= set(definition.get("properties", {}))
    return keys
