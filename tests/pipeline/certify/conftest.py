"""The certificate of a few sources."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from certifying import certify_plan
from families import write_family_folder

from pipeline.build_plan import plan_build
from pipeline.config import BuildConfig
from schemas.manifest import Certificate

Certify = Callable[..., Certificate]


@pytest.fixture
def certify(tmp_path: Path) -> Certify:
    """The certificate of entries of `sources`; differences are allowed, unless the other keys say so."""

    def make(*sources: dict[str, Any], **changes: Any) -> Certificate:
        tokenizer = {"path": str(write_family_folder("qwen2_5", tmp_path / "model"))}
        values = {"output": str(tmp_path / "out"), "seq_len": 4096, "tokenizer": tokenizer, "sources": sources}
        return certify_plan(plan_build(BuildConfig.model_validate({**values, "allow_differences": True, **changes})))

    return make
