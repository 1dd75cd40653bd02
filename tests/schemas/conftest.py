"""A small manifest, to be changed by tests."""

from collections.abc import Callable
from typing import Any

import manifest_values as support
import pytest


@pytest.fixture
def manifest_values() -> Callable[[], dict[str, Any]]:
    return support.manifest_values
