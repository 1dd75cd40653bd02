"""The JSON Schemas that are checked in are those of the models."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


def load_writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("json_schemas", Path(__file__).with_name("json_schemas.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WRITER = load_writer()


@pytest.mark.parametrize("name", WRITER.SCHEMAS)
def test_a_schema_is_current(name: str) -> None:
    expected = WRITER.schema_text(WRITER.SCHEMAS[name])
    assert (ROOT / name).read_text("utf-8") == expected, f"{name} is not that of its model: run `make format`"


def test_every_schema_that_is_checked_in_is_written() -> None:
    found = {path.relative_to(ROOT).as_posix() for path in (ROOT / "schemas/json").iterdir()}
    assert found == set(WRITER.SCHEMAS)


@pytest.mark.parametrize("name", WRITER.SCHEMAS)
def test_a_schema_allows_no_unknown_key(name: str) -> None:
    assert json.loads((ROOT / name).read_text("utf-8"))["additionalProperties"] is False
