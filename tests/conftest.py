"""Real tokenizers, and real rows where they are."""

from pathlib import Path

import pytest
from model_folders import MissingPackage, write_llama_folder, write_qwen_folder

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def qwen_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return write_qwen_folder(tmp_path_factory.mktemp("models"))
    except MissingPackage as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return write_llama_folder(tmp_path_factory.mktemp("models"))
    except MissingPackage as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real rows beside the checkout; skips where they are not."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the folder of real rows is not there")
    return SHARED / "data"
