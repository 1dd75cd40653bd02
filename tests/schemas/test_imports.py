"""The walls between the houses, as a process sees them: what an import loads, and what it does not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
BEAM, TORCH = ("apache_beam",), ("torch",)
TOKENIZERS = ("tokenizers", "tiktoken", "sentencepiece", "transformers")
HEAVY = ("numpy", "pyarrow", "pydantic", "yaml", "fsspec", "jinja2", "rich", "orjson")
SUBMODULES = ("schemas.channels", "schemas.manifest", "schemas.policy", "schemas.settings", "schemas.shard")

PROBE = "import json, sys; {code}; print(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"


def loaded_by(code: str) -> set[str]:
    command = [sys.executable, "-c", PROBE.format(code=code)]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60)
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_the_probe_sees_what_is_loaded() -> None:
    assert {"json", "jinja2"} <= loaded_by("import jinja2")


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        (f"import {', '.join(SUBMODULES)}", BEAM + TORCH + TOKENIZERS + ("jinja2",)),
        ("import train", BEAM + TOKENIZERS),
        ("import train.loop, train.__main__", BEAM + TOKENIZERS + ("jinja2",)),
        ("import pipeline", BEAM + TORCH + TOKENIZERS + HEAVY),
        ("import pipeline.cli", BEAM + TORCH + TOKENIZERS + HEAVY),
        ("import pipeline.config", BEAM + TORCH + TOKENIZERS),
        ("import pipeline.verify", BEAM + TORCH),
        ("import pipeline.transforms, pipeline.launch", TORCH),
    ],
)
def test_an_import_loads_nothing_from_behind_the_wall(code: str, forbidden: tuple[str, ...]) -> None:
    assert loaded_by(code) & set(forbidden) == set()


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import contextlib, io, pipeline.cli\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): pipeline.cli.main(['--help'])"
    )
    command = "import sys\n" + code + "\nimport json; print(json.dumps([name for name in sys.modules]))"
    result = subprocess.run(
        [sys.executable, "-c", command], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60
    )
    loaded = {name.partition(".")[0] for name in json.loads(result.stdout)}
    assert "pipeline" in loaded
    assert loaded & {*BEAM, *TORCH, *TOKENIZERS, *HEAVY} == set()
