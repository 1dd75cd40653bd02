"""The rules of the house, as tests."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("schemas", "pipeline", "train")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
NAMES = [path.relative_to(ROOT).as_posix() for path in FILES]

MOST_LINES, MOST_FUNCTION_LINES = 300, 60
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|tmp|Users|mnt|work)/")
DISTRIBUTIONS = {"yaml": "pyyaml", "apache_beam": "apache-beam"}
FOLDERS = {"schemas": [], "pipeline": ["pipeline", "fast", "certify"], "train": ["train"]}

each_file = pytest.mark.parametrize("path", FILES, ids=NAMES)


def test_there_are_files() -> None:
    assert len(FILES) > 50
    assert {name.partition("/")[0] for name in NAMES} == set(PACKAGES)


@each_file
def test_a_file_is_short(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= MOST_LINES


@each_file
def test_functions_are_short(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = [node.name for node in functions if (node.end_lineno or 0) - node.lineno >= MOST_FUNCTION_LINES]
    assert not long


@each_file
def test_source_is_ascii(path: Path) -> None:
    assert path.read_bytes().isascii()


@each_file
def test_no_path_of_one_machine(path: Path) -> None:
    assert not MACHINE_PATH.search(path.read_text("utf-8"))


@each_file
def test_a_file_is_named_for_what_it_does(path: Path) -> None:
    assert path.stem not in {"utils", "util", "helpers", "helper", "common", "misc"}


def imported(path: Path) -> Iterator[str]:
    """The top-level packages that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield str(node.module).partition(".")[0]


def declared() -> dict[str, set[str]]:
    """The distributions that each house may use: the core's, and those of its own extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[<>=!~\[; ]", requirement)[0].lower() for requirement in requirements}

    core = names(project["dependencies"])
    return {house: core.union(*(names(extras[extra]) for extra in own)) for house, own in FOLDERS.items()}


@pytest.mark.parametrize("house", PACKAGES)
def test_what_a_house_imports_is_declared(house: str) -> None:
    files = [path for path in FILES if path.relative_to(ROOT).parts[0] == house]
    found = {name for path in files for name in imported(path)} - sys.stdlib_module_names - set(PACKAGES)
    assert found
    assert {DISTRIBUTIONS.get(name, name) for name in found} <= declared()[house]


@pytest.mark.parametrize("house", PACKAGES)
def test_what_is_declared_is_used(house: str) -> None:
    used = {DISTRIBUTIONS.get(name, name) for path in FILES for name in imported(path)}
    assert declared()[house] <= used


def test_every_package_is_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    packages = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in FILES}
    assert packages == set(settings["packages"])


def test_each_house_is_typed() -> None:
    assert all((ROOT / package / "py.typed").exists() for package in PACKAGES)


def test_a_function_is_measured_from_its_name_to_its_last_line() -> None:
    tree = ast.parse("@decorator\ndef f():\n    pass\n\n\nasync def g():\n    a = 1\n    return a\n")
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [(node.end_lineno or 0) - node.lineno + 1 for node in functions] == [2, 3]
    assert all(before.lineno < after.lineno for before, after in pairwise(functions))
