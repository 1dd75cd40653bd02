"""Real tokenizers, and real rows where they are."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from model_folders import MissingPackage, llama_model_folder, qwen_model_folder
from servers import gcs_store, juicefs_store, moto_store, object_store, profiles_file  # noqa: F401 - fixtures

SHARED = Path(__file__).parents[2] / "shared"

# A busy machine is no reason to fail: how long things take is measured in tests/benchmarks.
settings.register_profile("laws", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("laws")


@pytest.fixture(scope="session")
def qwen_folder() -> Path:
    try:
        return qwen_model_folder()
    except MissingPackage as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def llama_folder() -> Path:
    try:
        return llama_model_folder()
    except MissingPackage as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real rows beside the checkout; skips where they are not."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the folder of real rows is not there")
    return SHARED / "data"
