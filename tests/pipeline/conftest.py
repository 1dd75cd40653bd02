"""A folder with rows and a config, ready to be built."""

from pathlib import Path

import pytest
from building import small_rows, write_config, write_jsonl


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with 600 rows and a config that cuts them into some twenty units."""
    write_jsonl(tmp_path / "rows.jsonl", small_rows(600))
    write_config(tmp_path)
    return tmp_path
