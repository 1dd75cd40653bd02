"""The certificate of a few sources."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from building import QWEN
from certifying import certify_plan

from pipeline.build_plan import plan_build
from pipeline.config import BuildConfig
from schemas.manifest import Certificate

Certify = Callable[..., Certificate]


@pytest.fixture
def certify(tmp_path: Path) -> Certify:
    """The certificate of sources, each a path or rows with a transform; differences are allowed unless asked for."""

    def make(*sources: dict[str, Any], **changes: Any) -> Certificate:
        values = {"seq_len": 4096, "tokenizer": QWEN, "certify": "transformers", "allow_differences": True, **changes}
        config = BuildConfig.model_validate({"output": str(tmp_path / "out"), "sources": sources, **values})
        return certify_plan(plan_build(config))

    return make
