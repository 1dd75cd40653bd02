"""The `custom` transform: a user's function, which travels to workers that do not have it."""

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from pipeline.config import Custom
from pipeline.convert import make_converter, module_source
from schemas.conversation import Conversation, Document, Message, TextDocument
from schemas.errors import ConfigError
from schemas.rejects import Reason, RejectRow

SOURCE = """
from my_rows.words import greet
from schemas.conversation import Conversation, Message, TextDocument

THING = 3
RESULTS = {
    "text": "plain",
    "document": TextDocument("plain"),
    "list": [{"role": "user", "content": "Hi"}],
    "dict": {"messages": [{"role": "user", "content": "Hi"}], "tools": [{"name": "f"}]},
    "conversation": Conversation((Message("assistant", "Hi", weight=0),)),
    "none": None,
    "number": 5,
    "bad role": [{"role": "bot", "content": "Hi"}],
    "dicts in it": Conversation(({"role": "user"},)),
    "bad content": Conversation((Message("assistant", 5),)),
    "bad tools": Conversation((Message("assistant", "x"),), tools="{"),
    "bad variables": Conversation((Message("assistant", "x"),), template_kwargs='{"messages": []}'),
    "spans apart": Conversation((Message("assistant", "xyz", spans=((2, 3), (0, 1))),)),
    "no spans": Conversation((Message("assistant", "xyz", spans=(("a", None),)),)),
    "train": Conversation((Message("user", "x", train=True),)),
}


def convert(row):
    return RESULTS[row["kind"]]


def polite(row, *, name):
    return [{"role": "assistant", "content": greet(row["text"], name)}]


def fails(row):
    raise KeyError("x" * 1000)
"""

HELPER = """
def greet(text, name):
    return f"{text}, {name}"
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path with the package `my_rows`, which is not installed."""
    package = tmp_path / "my_rows"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "convert.py").write_text(SOURCE)
    (package / "words.py").write_text(HELPER)
    (tmp_path / "broken_rows.py").write_text("import no_such_module_anywhere")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    registered = sys.modules.get("my_rows")
    if registered and registered.__name__ in cloudpickle.list_registry_pickle_by_value():
        cloudpickle.unregister_pickle_by_value(registered)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("my_rows", "broken_rows")]:
        del sys.modules[name]


def convert(kind: str) -> Document:
    settings = Custom(type="custom", function="my_rows.convert:convert")
    return make_converter(settings, loss_weights=False)({"kind": kind})


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(
    ("kind", "document"),
    [
        ("text", TextDocument("plain")),
        ("document", TextDocument("plain")),
        ("list", Conversation((Message("user", "Hi"),))),
        ("dict", Conversation((Message("user", "Hi"),), '[{"name": "f"}]')),
        ("conversation", Conversation((Message("assistant", "Hi", train=False),))),
    ],
)
def test_what_a_function_may_return(kind: str, document: Document) -> None:
    assert convert(kind) == document


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("none", Reason.CUSTOM_ERROR),
        ("missing", Reason.CUSTOM_ERROR),
        ("number", Reason.WRONG_TYPE),
        ("bad role", Reason.UNKNOWN_ROLE),
        ("dicts in it", Reason.WRONG_TYPE),
        ("bad content", Reason.WRONG_TYPE),
        ("bad tools", Reason.INVALID_JSON),
        ("bad variables", Reason.TEMPLATE_ERROR),
        ("spans apart", Reason.BAD_SPANS),
        ("no spans", Reason.WRONG_TYPE),
        ("train", Reason.TRAIN_OTHER_ROLE),
    ],
)
def test_what_a_function_may_not_return(kind: str, reason: Reason) -> None:
    with pytest.raises(RejectRow) as caught:
        convert(kind)
    assert caught.value.reason == reason


@pytest.mark.usefixtures("modules")
def test_an_exception_is_a_short_reject() -> None:
    converter = make_converter(Custom(type="custom", function="my_rows.convert:fails"), loss_weights=False)
    with pytest.raises(RejectRow, match=r"my_rows\.convert:fails: KeyError: 'xxx") as caught:
        converter({})
    assert caught.value.reason == Reason.CUSTOM_ERROR
    assert len(caught.value.detail) <= 200


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
def test_the_converter_travels_to_a_process_without_the_module(modules: Path, dumps: Any) -> None:
    settings = Custom(type="custom", function="my_rows.convert:polite", args={"name": "Ann"})
    file = modules / "converter.pickle"
    file.write_bytes(dumps(make_converter(settings, loss_weights=False)))
    program = (
        "import pickle, sys, importlib.util\n"
        "assert importlib.util.find_spec('my_rows') is None\n"
        "converter = pickle.load(open(sys.argv[1], 'rb'))\n"
        "again = pickle.loads(pickle.dumps(converter))\n"
        "print(again({'text': 'Hi'}).messages[0].content)"
    )
    checkout = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program, file], cwd=checkout, capture_output=True, text=True)
    assert done.stdout == "Hi, Ann\n", done.stderr


def test_a_function_of_an_installed_module_travels_by_name() -> None:
    converter = make_converter(Custom(type="custom", function="yaml:safe_dump"), loss_weights=False)
    assert len(pickle.dumps(converter)) < 2000
    assert converter({"a": 1}) == TextDocument("a: 1\n")


@pytest.mark.usefixtures("modules")
def test_the_source_of_the_module() -> None:
    """With that of the whole package, which travels with it."""
    whole = module_source("my_rows.convert:convert")
    assert SOURCE in whole
    assert "def greet" in whole
    with pytest.raises(ConfigError, match="has no source text"):
        module_source("math:floor")


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("no_such_rows:f", "cannot import 'no_such_rows': ModuleNotFoundError.*PYTHONPATH=."),
        ("broken_rows:f", "cannot import 'broken_rows': .*no_such_module_anywhere"),
        ("my_rows.convert:missing", "has no such name"),
        ("my_rows.convert:THING", "has a int there"),
    ],
)
def test_a_function_that_cannot_be_found(function: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_converter(Custom(type="custom", function=function), loss_weights=False)
