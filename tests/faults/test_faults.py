"""Every kind of fault once, and the harness itself: what is broken on purpose must not pass."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("moto", reason="the S3 server behind the proxy comes with: pip install 'moto[s3,server]'")
pytest.importorskip("s3fs")

HERE = Path(__file__).parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the command tells. A process of its own: it forks, and must have no threads."""
    folder = tmp_path_factory.mktemp("faults")
    command = [sys.executable, str(HERE / "run.py"), "--suite", str(folder / "told.json"), "--keep", str(folder)]
    run = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=500, check=False)
    assert run.returncode == 0, run.stderr
    found: dict[str, Any] = json.loads((folder / "told.json").read_bytes())
    return found


def test_no_data_set_is_lost_under_any_kind_of_fault(told: dict[str, Any]) -> None:
    assert not told["lost"], "\n".join(told["lost"])
    assert told["kinds"]
    assert set(told["kinds"]) <= set(told["struck"]), told["told"]


def test_what_is_broken_is_found(told: dict[str, Any]) -> None:
    assert told["broken"]
    for name, broken in told["broken"].items():
        assert any(broken["finds"] in problem for problem in broken["problems"]), (name, broken)
